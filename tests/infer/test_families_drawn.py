"""`dsd-infer` and `dsd-export` with students that take reference tokens, on the families' own classes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image
from worlds_of_families import random_base

from dsd.models.families import NAMES, family_named
from dsd.pipeline.pipeline import DSDPipeline
from dsd.publish.commands import export
from dsd.runs.shards import read_failures, read_shards

EXAMPLES = Path(__file__).parents[2] / "examples"
FIRST, SECOND = EXAMPLES / "critter-1.png", EXAMPLES / "critter-2.png"
ALL = [(name, attention) for name in NAMES for attention in family_named(name).attentions]
QUICK = ("settings.num_inference_steps=3", "model.max_sequence_length=48", "device=cpu")
PROMPT = "a red round critter, beach"


@pytest.fixture
def ask(base_folders, token_adapter) -> Callable[..., list[str]]:
    """Settings that draw with a trained student of a family."""

    def ask(family: str, attention: str = "null", **others: Any) -> list[str]:
        given = {"model.path": base_folders[family], "adapter": token_adapter(family, attention), **others}
        return [*QUICK, *(f"{key}={value}" for key, value in given.items())]

    return ask


def one(path: Path = FIRST, prompt: str = PROMPT) -> list[str]:
    return [f"image={path}", f"prompt='{prompt}'"]


def jobs_file(path: Path, *jobs: tuple[Any, str, int]) -> list[str]:
    """Write jobs, each of references, prompt and seed; the settings that name them."""
    rows = [
        {"reference": [str(one) for one in found] if isinstance(found, list) else str(found), "prompt": prompt,
         "seed": seed} for found, prompt, seed in jobs
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["jobs=jsonl", f"jobs.path={path}"]


def drawn(folder: Path) -> list[np.ndarray]:
    return [pixels(row["image"]) for row in read_shards(folder, "results")]


def pixels(picture: Image.Image | Path) -> np.ndarray:
    image = picture if isinstance(picture, Image.Image) else Image.open(picture)
    return np.asarray(image.convert("RGB"), np.int16)


def distance(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first - second).max())


@pytest.mark.parametrize(("family", "attention"), ALL)
def test_a_picture_depends_on_neither_its_batch_nor_what_is_remembered(run, ask, tmp_path, family, attention) -> None:
    jobs = [(FIRST, PROMPT, 1), (FIRST, "a blue tall critter", 2), (SECOND, "snow", 3), (FIRST, PROMPT, 1)]
    settings = [*ask(family, attention), *jobs_file(tmp_path / "jobs.jsonl", *jobs)]
    run("infer", *settings, "batch_size=1", f"output_dir={tmp_path / 'apart'}")
    run("infer", *settings, "batch_size=3", f"output_dir={tmp_path / 'together'}")
    apart, together = drawn(tmp_path / "apart"), drawn(tmp_path / "together")
    assert all(distance(a, b) <= 1 for a, b in zip(apart, together, strict=True))
    assert distance(apart[0], apart[3]) == 0
    assert distance(apart[0], apart[1]) > 1
    for number, (reference, prompt, seed) in enumerate(jobs[:3]):  # each with nothing to remember
        path = tmp_path / f"{number}.png"
        run("infer", *ask(family, attention), *one(reference, prompt), f"seed={seed}", f"output={path}")
        assert distance(pixels(path), apart[number]) == 0
    run("infer", *ask(family, attention), *one(SECOND), "seed=1", f"output={tmp_path / 'other.png'}")
    assert distance(pixels(tmp_path / "other.png"), apart[0]) > 0, "the reference is seen"


@pytest.mark.parametrize("family", NAMES)
def test_several_references_are_drawn(run, ask, tmp_path, family) -> None:
    both = f"image=[{FIRST},{SECOND}]"
    run("infer", *ask(family), both, f"prompt='{PROMPT}'", "seed=1", f"output={tmp_path / 'both.png'}")
    run("infer", *ask(family), *one(FIRST), "seed=1", f"output={tmp_path / 'one.png'}")
    assert distance(pixels(tmp_path / "both.png"), pixels(tmp_path / "one.png")) > 0
    jobs = jobs_file(tmp_path / "jobs.jsonl", ([FIRST, SECOND], PROMPT, 1), (FIRST, PROMPT, 1))
    run("infer", *ask(family), *jobs, f"output_dir={tmp_path / 'out'}")
    several, single = drawn(tmp_path / "out")
    assert distance(several, pixels(tmp_path / "both.png")) == 0
    assert distance(single, pixels(tmp_path / "one.png")) == 0


def test_what_a_student_does_not_take_is_one_line(run, refused, ask, adapter, token_adapter, tmp_path) -> None:
    five = f"image=[{','.join([str(FIRST)] * 5)}]"
    assert "image: 5 references; a picture takes 1 to 4" in refused("infer", *ask("flux2"), five, "prompt=a")
    canvas = [f"adapter={adapter}", "device=cpu", f"image=[{FIRST},{SECOND}]", "prompt=a"]
    said = refused("infer", *canvas, "model.path=/nowhere")  # said before the model is looked for
    assert "2 references for a picture: student=canvas takes at most 1; student=tokens takes several" in said
    other = {"adapter": token_adapter("flux1")}
    assert "made for the family flux1, and this base is flux2" in refused("infer", *ask("flux2", **other), *one())
    assert "made for the family flux1, and this base is flux2" in refused(
        "infer", *ask("flux2", adapter=adapter), *one()
    )
    said = refused("infer", *ask("flux1", **{"model.path": "pkg://dsd.toybox/weights/teacher"}), *one())
    assert "made for another base" in said
    for family, attention in (("flux1", "cached"), ("flux2", "full"), ("z_image", "full")):
        said = refused("infer", *ask(family, attention), *one(), "speed=cached")
        assert "speed.step_cache (speed=cached) does not go with student.kind=tokens" in said
    many = jobs_file(tmp_path / "many.jsonl", ([FIRST] * 5, PROMPT, 1))
    said = refused("infer", *ask("flux2"), *many, f"output_dir={tmp_path / 'out'}")
    assert "many.jsonl:1: reference: 5 references; a picture takes 1 to 4" in said


def test_a_canvas_fails_at_jobs_of_several_references_alone(run, adapter, tmp_path) -> None:
    jobs = jobs_file(tmp_path / "jobs.jsonl", ([FIRST, SECOND], PROMPT, 1), (FIRST, PROMPT, 1))
    said = run("infer", *jobs, f"adapter={adapter}", "settings.num_inference_steps=1", "device=cpu",
               f"output_dir={tmp_path / 'out'}")  # fmt: skip
    assert "1 pictures by student (0 failed, 1 not attempted)" in said
    (failure,) = read_failures(tmp_path / "out", "results")
    assert failure["reason"] == "not attempted: 2 references, student takes at most 1"


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> Path:
    """A distilled model of the base's shape, with weights of its own."""
    base, folder = random_base("flux2"), tmp_path_factory.mktemp("twin")
    with torch.no_grad():
        for parameter in base.transformer.parameters():
            parameter.mul_(1.01)
    Flux2KleinPipeline(**base.components, is_distilled=True).save_pretrained(folder)
    return folder


def test_a_distilled_twin_takes_the_adapter_of_its_base(run, ask, twin, tmp_path) -> None:
    said = run("infer", *ask("flux2", **{"model.path": twin}), *one(), f"output={tmp_path / 'twin.png'}")
    assert "this base is distilled to few steps" in said
    said = run("infer", *ask("flux2"), *one(), f"output={tmp_path / 'base.png'}")
    assert "this base is distilled" not in said
    assert distance(pixels(tmp_path / "twin.png"), pixels(tmp_path / "base.png")) > 0


def test_a_twin_that_does_not_say_so_is_named_by_its_model(run, refused, ask, tmp_path) -> None:
    """Z-Image-Turbo's pipeline has no mark of its distillation; configs/model/z_image_turbo.yaml has."""
    base, folder = random_base("z_image"), tmp_path / "turbo"
    with torch.no_grad():
        for parameter in base.transformer.parameters():
            parameter.mul_(1.01)
    base.save_pretrained(folder)
    given = (*ask("z_image", **{"model.path": folder}), *one(), f"output={tmp_path / 'twin.png'}")
    assert "made for another base" in refused("infer", *given)
    assert "this base is distilled to few steps" in run("infer", *given, "model.distilled=true")


def test_the_twin_is_exported_with_the_adapter(run, token_adapter, twin, tmp_path) -> None:
    ask = (f"adapter={token_adapter('flux2')}", f"base={twin}", "to=diffusers", f"output_dir={tmp_path / 'out'}")
    assert "relative error of a velocity" in run("publish", *ask, main=export)
    assert DSDPipeline.from_base(str(tmp_path / "out")).config["is_distilled"]


def test_a_base_without_an_adapter(run, refused, base_folders, tmp_path) -> None:
    """FLUX.2 was taught to follow references; Z-Image was not."""
    ask = (*one(), *QUICK, f"output={tmp_path / 'a.png'}")
    said = run("infer", *ask, f"model.path={base_folders['flux2']}")
    assert "follows references in its own way" in said
    for family in ("flux1", "z_image"):
        assert "takes no reference by itself; give adapter=" in refused(
            "infer", *ask, f"model.path={base_folders[family]}"
        )


def test_training_on_a_distilled_model_is_warned_of(run, pairs, twin, tmp_path) -> None:
    said = run("train", "student=tokens", f"model.path={twin}", f"pairs={pairs}", "num_steps=1", "batch_size=2",
               "lora.rank=2", "model.max_sequence_length=48", "device=cpu", f"output_dir={tmp_path}")  # fmt: skip
    assert "is distilled to few steps, which training on it undoes; train on its base" in said


@pytest.mark.parametrize(("family", "attention"), ALL)
def test_an_exported_pipeline_is_the_student(
    run, ask, token_adapter, base_folders, tmp_path, family, attention
) -> None:
    adapter = token_adapter(family, attention)
    said = run("publish", f"adapter={adapter}", "to=diffusers", f"output_dir={tmp_path / 'out'}", main=export)
    assert "relative error of a velocity" in said
    ours = DSDPipeline.from_base(str(base_folders[family]), adapter)
    theirs = DSDPipeline.from_base(str(tmp_path / "out"))
    plain = type(theirs).from_pretrained(tmp_path / "out")
    assert theirs.student.about() == plain.student.about() == ours.student.about()
    assert theirs.student.attention == attention
    pictures = []
    for pipeline in (ours, theirs, plain):
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(1)
        pictures.append(
            pipeline(PROMPT, Image.open(FIRST).convert("RGB"), 64, 64, 3, generator=generator, output_type="np",
                     max_sequence_length=48).images
        )  # fmt: skip
    assert np.abs(pictures[0] - pictures[1]).max() < 1e-5
    assert np.array_equal(pictures[1], pictures[2])


@pytest.mark.parametrize("to", ["released", "merged", "comfyui"])
def test_formats_of_a_canvas_are_refused(refused, token_adapter, tmp_path, to) -> None:
    ask = (f"adapter={token_adapter('flux1')}", f"to={to}", f"output_dir={tmp_path / 'out'}")
    said = refused("publish", *ask, main=export)
    assert f"to={to} is for student=canvas; the adapter.safetensors of student=tokens is a LoRA" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["flux2", "z_image"])
def test_a_base_alone_draws_the_prompts(run, base_folders, tmp_path, family) -> None:
    jobs = jobs_file(tmp_path / "jobs.jsonl", (FIRST, PROMPT, 1), (SECOND, "a blue tall critter, snow", 2))
    settings = (f"model.path={base_folders[family]}", "method=text_only", *QUICK, *jobs)
    run("infer", *settings, "batch_size=1", f"output_dir={tmp_path / 'apart'}")
    run("infer", *settings, "batch_size=2", f"output_dir={tmp_path / 'together'}")
    apart, together = drawn(tmp_path / "apart"), drawn(tmp_path / "together")
    assert all(distance(a, b) <= 1 for a, b in zip(apart, together, strict=True))
    assert distance(*apart) > 1


@pytest.mark.parametrize(("family", "attention"), ALL)
def test_guidance_in_one_batch_and_apart_draw_the_same(run, ask, tmp_path, family, attention) -> None:
    guided = ("settings.image_guidance_scale=1.5", "settings.text_guidance_scale=2", "settings.no_cfg_until_timestep=1")
    for name in ("true", "false"):
        run("infer", *ask(family, attention), *one(), *guided, f"settings.guidance_batching={name}", "seed=1",
            f"output={tmp_path / name}.png")  # fmt: skip
    run("infer", *ask(family, attention), *one(), "seed=1", f"output={tmp_path / 'plain'}.png")
    pictures = {name: pixels(tmp_path / f"{name}.png") for name in ("true", "false", "plain")}
    assert distance(pictures["true"], pictures["false"]) <= 1
    assert distance(pictures["true"], pictures["plain"]) > 1


def test_a_step_cache_goes_with_full_attention(run, ask, tmp_path) -> None:
    run("infer", *ask("flux1", "full"), *one(), "speed=cached", "settings.text_guidance_scale=2",
        f"output={tmp_path / 'a.png'}")  # fmt: skip


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("quantization", ["int8", "gguf"])
def test_a_quantised_student_still_sees_its_references(run, ask, tmp_path, family, quantization) -> None:
    """A transformer that is loaded anew in fewer bits keeps the references' keys and values all the same."""

    def draw(name: str, *settings: str) -> np.ndarray:
        path = tmp_path / f"{name}.png"
        run("infer", *ask(family), *settings, "seed=1", f"output={path}")
        return pixels(path).astype(float)

    whole, few = draw("whole", *one(FIRST)), draw("few", *one(FIRST), f"quantization={quantization}")
    other = draw("other", *one(SECOND), f"quantization={quantization}")
    assert np.abs(whole - few).mean() < 0.5 * np.abs(other - few).mean()


@pytest.mark.parametrize(("family", "attention"), ALL)
def test_a_picture_may_have_other_proportions(run, ask, tmp_path, family, attention) -> None:
    sizes = ("settings.height=64", "settings.width=96")
    run("infer", *ask(family, attention), *sizes, f"image=[{FIRST},{SECOND}]", f"prompt='{PROMPT}'",
        f"output={tmp_path / 'a.png'}")  # fmt: skip
    assert pixels(tmp_path / "a.png").shape == (64, 96, 3)
