"""Compiled blocks: a graph for each shape and no more, counted, and a batch that is filled up."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters

from dsd.data_gen.teachers import PipelineTeacher
from dsd.infer.methods import Parts, Student
from dsd.io.records import Prompt
from dsd.models.speed import Speed, compile_blocks, filled
from dsd.pipeline.pipeline import DSDPipeline

DATA = Path(__file__).parents[1] / "data" / "published_tiny"
CPU = torch.device("cpu")
EAGER = Speed("eager", True, False, None, False, None)
EXACT = Speed("exact", True, False, None, True, None)
REFERENCE = Image.open(DATA / "reference.png").convert("RGB")
GUIDED = {"image_guidance_scale": 1.5, "text_guidance_scale": 3.0}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def compiled(pipeline: DSDPipeline) -> None:
    """As `Speed` compiles, without the minute that code generation takes."""
    compile_blocks(pipeline.transformer, backend="eager")


def student(batch_size: int = 1, **settings: object) -> Student:
    model = DATA / "dsd_model"
    lora = str(model / "pytorch_lora_weights.safetensors")
    known = {"height": 64, "width": 64, "num_inference_steps": 3, "max_sequence_length": 16, **settings}
    parts = Parts(
        str(DATA / "base"), False, "float32", CPU, known, None, str(model / "transformer"), lora, [], EXACT, compiled,
        batch_size,
    )  # fmt: skip
    return Student(parts, "student", True)


def draw(method: Student, num: int, **settings: object) -> list[Image.Image]:
    method.settings |= settings
    prompts = [f"a dog {number}" for number in range(num)]
    return method([[REFERENCE]] * num, prompts, list(range(num)))


@pytest.mark.slow
def test_a_graph_for_each_shape_and_no_more() -> None:
    """Two sizes and two lengths of text, plain steps and guided ones: this ended in FailOnRecompileLimitHit."""
    method, met = student(), 0
    asked = (64, 16), (32, 16), (64, 24)
    for width, length in asked:
        draw(method, 1, width=width, max_sequence_length=length, **GUIDED)
        met += 2  # plain, and three passes as one batch
        # single blocks have two: the first is given a whole tensor, the others a view of what the one before returned
        assert graphs() == 3 * met, (width, length)
    assert not counters["graph_break"]
    before = graphs()
    draw(method, 1, width=64, max_sequence_length=16, **GUIDED)
    assert graphs() == before, "a shape that was met before is compiled already"


def test_more_shapes_than_graphs_are_drawn_too(monkeypatch) -> None:
    monkeypatch.setattr("dsd.models.speed.MOST_GRAPHS", 1)
    with torch._dynamo.config.patch(recompile_limit=1):
        method = student()
        for width in (32, 64):
            assert draw(method, 1, width=width)[0].size == (width, 64)
    assert graphs() == 2, "one of each kind of block"


def test_a_partial_batch_is_filled_up() -> None:
    method = student(batch_size=3)
    whole = draw(method, 3)
    before = graphs()
    for num in (1, 2):
        for part, picture in zip(draw(method, num), whole, strict=False):
            assert part.tobytes() == picture.tobytes(), "a picture never depends on its batch"
    assert graphs() == before


def test_an_eager_student_draws_no_more_than_it_was_asked_for() -> None:
    method, seen = student(batch_size=3), []
    method.least = 1
    method.pipeline.transformer.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(len(inputs["hidden_states"])), with_kwargs=True
    )
    draw(method, 2)
    assert set(seen) == {2}


def test_a_teacher_s_partial_batch_is_filled_up(monkeypatch) -> None:
    monkeypatch.setattr(
        Speed, "__call__", lambda _, pipeline, device, many: compile_blocks(pipeline.transformer, backend="eager")
    )
    teacher = PipelineTeacher(str(DATA / "base"), "float32", 16, 16, 16, 2, 3.5, EAGER, device="cpu", batch_size=4)
    prompts = [Prompt(n, f"a dog {n}", "2x2", ["a dog"] * 4, "dog", "context", "test") for n in range(4)]
    teacher.prepare(prompts)
    whole = teacher(prompts, range(4))
    before = graphs()
    few = teacher(prompts[:3], range(3))
    assert graphs() == before == 3
    assert [grid.tobytes() for grid in few] == [grid.tobytes() for grid in whole[:3]]


def test_filling_up() -> None:
    assert filled("ab", 4) == ["a", "b", "b", "b"]
    assert filled(range(3), 2) == [0, 1, 2]
