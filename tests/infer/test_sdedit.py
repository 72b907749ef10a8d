"""method=sdedit: the base's image-to-image by diffusers' own pipelines, on the small FLUX and on tiny bases."""

import re
from pathlib import Path

import numpy as np
import pytest
from diffusers import FluxTransformer2DModel
from PIL import Image

from dsd.errors import UserError
from dsd.infer.sdedit import refuse_strength
from dsd.runs.shards import read_shards

FIRST = Path(__file__).parents[2] / "examples" / "critter-1.png"
QUICK = ("method=sdedit", "settings.num_inference_steps=5", "device=cpu")


def distance(run, path: Path, *more: str) -> float:
    """Draw the first example again; the mean distance from it, in grey levels."""
    run("infer", *QUICK, f"image={FIRST}", "prompt='a white tall critter, beach, night'", f"output={path}", *more)
    drawn, reference = (np.asarray(Image.open(p).convert("RGB")).astype(float) for p in (path, FIRST))
    return float(np.abs(drawn - reference).mean())


def test_the_more_strength_the_further_from_the_reference(run, tmp_path) -> None:
    near, far, free = (distance(run, tmp_path / f"{s}.png", f"method.strength={s}") for s in (0.2, 0.6, 1.0))
    assert near < far < free


@pytest.mark.parametrize("family", ["z_image"])
def test_another_family_has_it_too(run, base_folders, tmp_path, family) -> None:
    base = (f"model.path={base_folders[family]}", "model.max_sequence_length=48")
    assert distance(run, tmp_path / "a.png", *base, "method.strength=0.2") < distance(
        run, tmp_path / "b.png", *base, "method.strength=1.0"
    )


def test_a_picture_does_not_depend_on_its_batch(run, tmp_path) -> None:
    jobs = ("jobs=toybox", "jobs.num_subjects=2", "jobs.relation=relight", "jobs.described=true", "png=false")
    drawn = []
    for size in (1, 3):
        run("infer", *QUICK, *jobs, f"batch_size={size}", f"output_dir={tmp_path / str(size)}")
        rows = read_shards(tmp_path / str(size), "results")
        assert set(rows["method"]) == {"sdedit"}
        drawn.append(np.stack([np.asarray(row["image"]) for row in rows]).astype(int))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


@pytest.mark.parametrize(
    ("strength", "said"),
    [
        ("0", "a number above 0 and at most 1"),
        ("1.5", "at most 1"),
        ("much", "a number"),
        ("0.1", "is less than one of 5 steps; raise it to 0.2"),
    ],
)
def test_a_strength_that_draws_nothing_is_refused(refused, tmp_path, strength, said) -> None:
    one = (f"image={FIRST}", "prompt=beach", f"output={tmp_path / 'a.png'}")
    assert said in refused("infer", *QUICK, *one, f"method.strength={strength}")


@pytest.mark.parametrize("steps", [1, 3, 7, 28, 30, 50, 128, 1000])
def test_the_strength_that_the_refusal_names_is_taken(steps) -> None:
    with pytest.raises(UserError, match="less than one of") as refusal:
        refuse_strength(0.99 / steps, steps)
    refuse_strength(float(re.search(r"raise it to ([\d.]+),", str(refusal.value))[1]), steps)


@pytest.mark.parametrize(("strength", "steps"), [(0.2, 1), (0.3, 2), (0.4, 2), (1.0, 5)])
def test_the_strength_is_the_share_of_steps(run, tmp_path, monkeypatch, strength, steps) -> None:
    passes, forward = [], FluxTransformer2DModel.forward

    def counted(self, *given, **named):
        passes.append(1)
        return forward(self, *given, **named)

    monkeypatch.setattr(FluxTransformer2DModel, "forward", counted)
    distance(run, tmp_path / "a.png", f"method.strength={strength}")
    assert len(passes) == steps


def test_a_sweep_over_strengths_overwrites_nothing(run, tmp_path) -> None:
    one = (*QUICK, f"image={FIRST}", "prompt=beach")
    run("infer", "-m", *one, "method.strength=0.2,0.8", f"hydra.sweep.dir={tmp_path / 'single'}")
    jobs = ("jobs=toybox", "jobs.num_subjects=1", "jobs.relation=relight", "jobs.described=true")
    run("infer", "-m", *QUICK, *jobs, "method.strength=0.2,0.8", f"output_dir={tmp_path}/set/${{method.strength}}")
    for where, pattern in (("single", "*/*.png"), ("set", "*/images/*.png")):
        of = {p.parent.relative_to(tmp_path / where).parts[0]: p.read_bytes() for p in (tmp_path / where).glob(pattern)}
        assert set(of) == {"single": {"0", "1"}, "set": {"0.2", "0.8"}}[where]
        assert len(set(of.values())) == 2


def test_two_strengths_one_after_the_other_are_two_pictures(run, tmp_path) -> None:
    for strength in (0.2, 0.8, 0.8):
        run("infer", *QUICK, f"image={FIRST}", "prompt=beach", f"method.strength={strength}", f"output_dir={tmp_path}")
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_a_base_without_image_to_image_is_refused(refused, base_folders, tmp_path) -> None:
    one = (f"image={FIRST}", "prompt=beach", f"output={tmp_path / 'a.png'}", "model.max_sequence_length=48")
    said = refused("infer", *QUICK, *one, f"model.path={base_folders['flux2']}")
    assert "diffusers has no image-to-image pipeline with a strength for" in said
    assert "a Flux2KleinPipeline" in said
