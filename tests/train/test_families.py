"""Students with reference tokens in training, on the families' own classes at their smallest."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from worlds_of_families import random_base

from dsd.errors import UserError
from dsd.models.adapter import build_student, trainable_parameters
from dsd.models.adapter_file import read_adapter
from dsd.models.families import NAMES, block_lists, family_named
from dsd.models.kinds import make_student
from dsd.models.student import Conditions
from dsd.pipeline.jobs import Job
from dsd.train.data.sampling import Sampling
from dsd.train.recompute import recompute_blocks
from dsd.train.validation import Validation

EXAMPLE = Path(__file__).parents[2] / "examples" / "critter-1.png"
ALL = [(name, attention) for name in NAMES for attention in family_named(name).attentions]
SMALL = (
    "student=tokens", "batch_size=4", "learning_rate=1e-3", "log_every=1", "device=cpu", "num_steps=3", "lora.rank=4",
    "model.max_sequence_length=48",
)  # fmt: skip


@pytest.fixture(scope="module")
def settings(pairs: Path, base_folders: dict[str, Path], tmp_path_factory) -> Callable[..., tuple[str, ...]]:
    """Call it with a family: the smallest training on its base. Latents and texts are encoded once for all tests."""
    cache = tmp_path_factory.mktemp("families") / "cache"

    def settings(family: str, attention: str = "null") -> tuple[str, ...]:
        base = f"model.path={base_folders[family]}"
        return (*SMALL, base, f"student.attention={attention}", f"pairs={pairs}", f"cache_dir={cache}")

    return settings


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()]


@pytest.mark.parametrize(("family", "attention"), ALL)
def test_every_family_trains(run, settings, tmp_path, family, attention) -> None:
    run("train", *settings(family, attention), f"output_dir={tmp_path}")
    assert len(losses(tmp_path)) == 3
    assert all(0 < loss < 100 for loss in losses(tmp_path))
    state, metadata = read_adapter(tmp_path)
    assert all(".lora_A." in name or ".lora_B." in name for name in state)
    assert any(".lora_B." in name and tensor.any() for name, tensor in state.items())
    positions = family_named(family).positions[0]
    assert metadata["student"] == {
        "kind": "tokens", "family": family, "positions": positions, "attention": attention,
    }  # fmt: skip


@pytest.mark.parametrize("family", ["flux1", "flux2", "z_image"])
def test_stopped_and_run_again_is_unbroken(run, settings, tmp_path, monkeypatch, family) -> None:
    """With all that a checkpoint holds, blocks that are computed twice, and pictures drawn in between."""
    ours = (
        *settings(family), "num_steps=4", "ema_half_life=4", "activation_gb=0.0005", "checkpoint_every=1",
        "validation=toybox", "validation.every=2", "validation.jobs.num_subjects=1", "validation.batch_size=1",
        "validation.artist.num_inference_steps=2",
    )  # fmt: skip
    ours = tuple(one for one in ours if one != "validation.batch_size=1")
    said = run("train", *ours, f"output_dir={tmp_path / 'unbroken'}")
    assert "blocks are computed twice" in said
    assert " 0 of " not in said
    monkeypatch.setattr("dsd.train.stopping.Stopping.__call__", lambda self: self.state.step >= 3)
    assert "step 3 is saved" in run("train", *ours, f"output_dir={tmp_path / 'broken'}")
    monkeypatch.undo()
    assert "resuming at step 3" in run("train", *ours, f"output_dir={tmp_path / 'broken'}")
    states = [load_file(tmp_path / name / "adapter.safetensors") for name in ("unbroken", "broken")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    seen = [(tmp_path / name / "validation.jsonl").read_text() for name in ("unbroken", "broken")]
    assert seen[0] == seen[1]
    assert len(list((tmp_path / "broken" / "samples").iterdir())) == 2


@pytest.mark.parametrize(("family", "attention"), ALL)
def test_blocks_that_are_computed_twice_change_no_gradient(family, attention) -> None:
    """Also where what references leave behind in one pass is read in another."""
    base = random_base(family)
    student = make_student(family_named(family), "tokens", None, attention, transformer=base.transformer)
    transformer = build_student(base.transformer, student, 4, 4, "all_linear")
    parameters = trainable_parameters(transformer)
    for parameter in parameters.values():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    canvas = student.canvas(64, 64)
    generator = torch.Generator().manual_seed(1)
    noisy, references, other = (
        torch.randn(2, num * canvas.num_tokens, student.family.channels(transformer), generator=generator)
        for num in (1, 2, 2)
    )
    text = student.family.encode_text(base, ["a red critter", "beach"], 32)

    def gradients() -> list[torch.Tensor]:
        both = [
            student.velocity(noisy, torch.tensor([0.4, 0.9]), Conditions(seen, text), canvas, 3.5).square().mean()
            for seen in (references, other)  # two passes before one backward pass, as in objective=sfo
        ]
        return list(torch.autograd.grad(both[0] + 2 * both[1], list(parameters.values()), allow_unused=True))

    expected = gradients()
    assert all(found is not None and found.any() for found in expected)
    num = recompute_blocks(student.family, transformer, 0, 2, 3 * canvas.num_tokens, 32)
    assert num == sum(map(len, block_lists(transformer).values()))
    for name, found, wanted in zip(parameters, gradients(), expected, strict=True):
        assert (found - wanted).abs().max() < 1e-6 * max(1, wanted.abs().max()), name


@pytest.mark.parametrize("family", ["flux2", "z_image"])
def test_whatever_is_cached_the_loss_is_the_same(run, settings, tmp_path, family) -> None:
    """Captions have different lengths, which Z-Image's transformer sees."""
    found = []
    for cache in ("all", "latents", "off"):
        run("train", *settings(family), "num_steps=1", f"cache={cache}", f"output_dir={tmp_path / cache}")
        found += losses(tmp_path / cache)
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-5)


def test_a_lora_on_a_quantised_base(run, settings, tmp_path) -> None:
    for family in ("flux2", "z_image"):
        run("train", *settings(family), "num_steps=1", "quantization=int8", f"output_dir={tmp_path / family}")
        run("train", *settings(family), "num_steps=1", f"output_dir={tmp_path / 'full'}-{family}")
        assert 0 < abs(losses(tmp_path / family)[0] - losses(Path(f"{tmp_path / 'full'}-{family}"))[0]) < 0.1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("family", "launcher"), [("flux2", "zero2"), ("flux2", "fsdp2"), ("flux1", "fsdp2"), ("z_image", "fsdp2")]
)
def test_two_processes_train_what_one_does(run, spawn, settings, tmp_path, family, launcher) -> None:
    """FLUX.1's references have a pass of their own: FSDP2 lacked their last block's weights in the backward pass."""
    ours = (*settings(family), "num_steps=2", "activation_gb=0.0005")
    run("train", *ours, f"output_dir={tmp_path / 'alone'}")
    command = ("-m", "dsd.train", f"launcher={launcher}", *ours, f"output_dir={tmp_path / launcher}")
    process = spawn(*command, processes=2, stderr=subprocess.PIPE)
    _, said = process.communicate()
    assert process.returncode == 0, said[-3000:]
    expected, found = (load_file(tmp_path / name / "adapter.safetensors") for name in ("alone", launcher))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert float((tensor - expected[name]).abs().max()) < 2e-6, name


@pytest.fixture(scope="module")
def sets(run_once, grids, pairs, tmp_path_factory) -> Path:
    """The same pairs, and targets with three references."""
    folder = tmp_path_factory.mktemp("families") / "sets"
    run_once("curation", f"grids={grids}", f"verdicts_dir={pairs}", "max_references=3", f"output_dir={folder}",
             "device=cpu")  # fmt: skip
    return folder


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("cache", ["all", "off"])
def test_several_references_are_learnt_from(run, settings, sets, tmp_path, monkeypatch, family, cache) -> None:
    seen = []
    original = Sampling.batch

    def batch(self, positions):
        found = original(self, positions)
        seen.append(found.conditions.cond_latents.shape[1] // found.canvas.num_tokens)
        return found

    monkeypatch.setattr(Sampling, "batch", batch)
    ours = (*settings(family), f"pairs={sets}", "data=references", "num_steps=10", "batch_size=2", f"cache={cache}")
    run("train", *ours, "activation_gb=0", f"output_dir={tmp_path}")
    assert set(seen) == {1, 3}
    assert all(0 < loss < 100 for loss in losses(tmp_path))


def test_a_canvas_has_room_for_one_reference(refused, sets, pairs, tmp_path) -> None:
    said = refused("train", f"pairs={sets}", "data=references", "student=canvas", "device=cpu",
                   f"output_dir={tmp_path / 'a'}")  # fmt: skip
    assert "3 references for a picture: student=canvas takes at most 1; student=tokens takes several" in said
    assert not list((tmp_path / "a").glob("cache/canvas-*/*.npy")), "nothing was encoded in vain"
    said = refused("train", f"pairs={pairs}", "data=references", "student=tokens", f"output_dir={tmp_path / 'b'}")
    assert "no sets of references in it; run dsd-curate max_references=4 first" in said


@pytest.mark.parametrize(("family", "overrides", "words"), [
    ("flux2", ("student=canvas",), "student=canvas widens the input of FLUX.1; flux2 takes student=tokens"),
    ("flux2", ("student.positions=z_image",), "student.positions=z_image is unknown to flux2; choose one of flux2,"),
    ("z_image", ("student.attention=cached",), "student.attention=cached is unknown to z_image; choose one of full"),
])  # fmt: skip
def test_what_a_family_does_not_know_is_one_line(refused, settings, tmp_path, family, overrides, words) -> None:
    assert words in refused("train", *settings(family), *overrides, f"output_dir={tmp_path}")


@pytest.mark.parametrize("family", ["flux1", "flux2", "z_image"])
def test_the_second_stage(
    run, refused, settings, pairs, token_adapter, adapter, base_folders, tmp_path, family
) -> None:
    """Negatives that a token student drew, a LoRA that prefers the truth, and one file that is both."""
    first, negatives, out = token_adapter(family), tmp_path / "negatives", tmp_path / "train"
    drawing = (f"model.path={base_folders[family]}", "model.max_sequence_length=48", "settings.num_inference_steps=1")
    run("infer", "experiment=toybox_sfo/infer", *drawing, f"jobs.path={pairs}", "jobs.num=4", f"adapter={first}",
        "device=cpu", f"output_dir={negatives}")  # fmt: skip
    ours = ("experiment=toybox_sfo/train", *settings(family), f"data.negatives={negatives}", "batch_size=2",
            "activation_gb=0", "learning_rate=1e-2", "warmup_steps=0")  # fmt: skip
    run("train", *ours, f"init_adapter={first}", f"output_dir={out}")
    assert losses(out)[0] == pytest.approx(0.693147, abs=1e-4)  # log 2: nothing is preferred yet
    assert losses(out)[-1] != losses(out)[0]
    assert read_adapter(out)[1]["lora"]["rank"] == 4 + 4
    run("infer", *drawing, f"adapter={out}", f"image={EXAMPLE}", "prompt=beach", "device=cpu",
        f"output={tmp_path / 'a.png'}")  # fmt: skip
    said = refused("train", *ours, f"init_adapter={adapter}", f"output_dir={tmp_path / 'b'}")
    assert "made with student.kind=canvas, this student has tokens; they must be the same" in said
    said = refused("train", *settings(family), "lora.rank=0", f"output_dir={tmp_path / 'c'}")
    assert "student=tokens is written as a LoRA; lora.rank=0" in said


def test_validation_draws_with_one_reference() -> None:
    job = Job("a", EXAMPLE, "beach", others=(EXAMPLE,))
    with pytest.raises(UserError, match="a job has several references; validation draws with one"):
        Validation([job], None, {}, "CP", 1)
