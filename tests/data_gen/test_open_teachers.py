"""FLUX.2 [klein], Z-Image and Qwen-Image draw grids as their stock pipelines do, from prompts encoded beforehand."""

from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tiny_teachers import klein, tiny

from dsd.data_gen.teachers import PipelineTeacher
from dsd.io.records import Prompt
from dsd.models import loading
from dsd.models.speed import Speed
from dsd.pipeline.prompt_encoding import PROMPTINGS, Embeddings, quarters
from dsd.runs.command import CONFIG_DIR
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_shards

EAGER = Speed("eager", True, False, None, False, None)
LENGTH = 256  # text tokens; the template of Qwen-Image alone has about 170 bytes
PROMPTS = ("two panels of a red cat", "a cat", "a much longer prompt about a green dog that sits in the snow at night")
SEEDS = (5, 6, 7)
GUIDED = {"flux2_klein": {"guidance_scale": 4.0}, "z_image": {"guidance_scale": 4.0}, "qwen_image": {
    "true_cfg_scale": 4.0, "negative_prompt": " "}}  # fmt: skip
PLAIN = {"flux2_klein": {"guidance_scale": 1.0}, "z_image": {"guidance_scale": 0.0}, "qwen_image": {
    "true_cfg_scale": 1.0}}  # fmt: skip
OWN = {"flux2_klein": {"text_encoder_out_layers": (1, 2, 3)}}
CALLS = [(name, settings[name]) for settings in (GUIDED, PLAIN) for name in settings]
IDS = [f"{name}-{'guided' if settings is GUIDED else 'plain'}" for settings in (GUIDED, PLAIN) for name in settings]


def teacher_of(pipeline: Any, settings: dict[str, Any]) -> PipelineTeacher:
    guidance = settings.get("true_cfg_scale", settings.get("guidance_scale"))
    teacher = PipelineTeacher(pipeline, "float32", 16, 16, LENGTH, 2, guidance, EAGER, device="cpu")
    teacher.settings["output_type"] = "np"
    return teacher


def draw(teacher: PipelineTeacher, texts: tuple[str, ...], seeds: tuple[int, ...]) -> np.ndarray:
    prompts = [Prompt(i, text, "1x2", ["", ""], "", "same", "") for i, text in enumerate(texts)]
    teacher.prepare(prompts)
    return np.asarray(teacher(prompts, seeds))


def stock(pipeline: Any, text: str, seed: int, settings: dict[str, Any]) -> np.ndarray:
    return pipeline(
        prompt=text, generator=torch.Generator().manual_seed(seed), height=16, width=32, num_inference_steps=2,
        max_sequence_length=LENGTH, output_type="np", **settings,
    ).images[0]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), CALLS, ids=IDS)
def test_the_stock_pipeline_draws_the_same_from_the_words(name: str, settings: dict[str, Any]) -> None:
    ours = draw(teacher_of(tiny(name), settings), PROMPTS, SEEDS)
    theirs = [stock(tiny(name), p, s, {**settings, **OWN.get(name, {})}) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert np.abs(ours - np.stack(theirs)).max() < 1e-5


@pytest.mark.parametrize(("name", "settings"), CALLS, ids=IDS)
def test_a_grid_depends_on_its_own_prompt_and_seed_alone(name: str, settings: dict[str, Any]) -> None:
    """Longer prompts beside it change it by rounding alone; another prompt or another seed changes it visibly."""
    teacher = teacher_of(tiny(name), settings)
    beside, alone = draw(teacher, PROMPTS, SEEDS)[1], draw(teacher, PROMPTS[1:2], SEEDS[1:2])[0]
    assert np.abs(beside - alone).max() < 1e-5
    others = draw(teacher, (PROMPTS[0], PROMPTS[1]), (SEEDS[1], SEEDS[0]))
    assert all(np.abs(other - alone).max() > 1 / 255 for other in others)


@pytest.mark.parametrize("name", GUIDED)
def test_guidance_shows(name: str) -> None:
    guided, plain = (draw(teacher_of(tiny(name), way[name]), PROMPTS[:1], SEEDS[:1]) for way in (GUIDED, PLAIN))
    assert np.abs(guided - plain).max() > 1 / 255


@pytest.mark.parametrize(("name", "settings"), CALLS, ids=IDS)
def test_every_prompt_is_encoded_once_and_the_encoder_does_not_draw(name: str, settings: dict[str, Any]) -> None:
    teacher = teacher_of(tiny(name), settings)
    assert isinstance(teacher.text, Embeddings)
    encoded: list[int] = []
    encoder = teacher.text.reader.text_encoder
    encoder.register_forward_hook(
        lambda _, __, given, ___: encoded.append(len(given["input_ids"])), with_kwargs=True
    )  # fmt: skip
    draw(teacher, (*PROMPTS, PROMPTS[0]), (*SEEDS, 8))
    assert encoded == [len(PROMPTS) + (settings is GUIDED[name])]
    assert teacher.drawer.components["text_encoder"] is None


def test_a_distilled_model_stays_distilled() -> None:
    """The part that draws keeps the pipeline's own settings: guidance is ignored, no negative prompt is encoded."""
    teacher = teacher_of(klein(is_distilled=True), GUIDED["flux2_klein"])
    assert teacher.text.negative is None
    ours = draw(teacher, PROMPTS[:1], SEEDS[:1])
    theirs = stock(klein(), PROMPTS[0], SEEDS[0], {"guidance_scale": 1.0, **OWN["flux2_klein"]})
    assert np.abs(ours[0] - theirs).max() < 1e-5


def test_the_released_encoder_is_read_where_diffusers_reads_it() -> None:
    released = SimpleNamespace(text_encoder=SimpleNamespace(config=SimpleNamespace(num_hidden_layers=36)))
    assert quarters(released) == {"text_encoder_out_layers": (9, 18, 27)}


@pytest.mark.parametrize(
    ("since", "words"),
    [({"NextYearPipeline": "99.1"}, "it came with 99.1: pip install --upgrade 'diffusers>=99.1'"),
     ({}, "a newer one may have it: pip install --upgrade 'diffusers'")],
)  # fmt: skip
def test_a_library_too_old_for_a_pipeline_is_named(refused, tmp_path, monkeypatch, since, words) -> None:
    monkeypatch.setattr(loading, "SINCE", since)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text('{"_class_name": "NextYearPipeline"}')
    said = refused("data_gen", "num_grids=1", f"model.path={tmp_path / 'model'}", f"output_dir={tmp_path / 'grids'}")
    assert f"diffusers {metadata.version('diffusers')} has no NextYearPipeline; {words}" in said


def test_every_late_family_says_which_library_has_it() -> None:
    """All of them are in the oldest diffusers that this package accepts."""
    late = {"Flux2Pipeline", "Flux2KleinPipeline", "ZImagePipeline", "QwenImagePipeline"}
    assert late <= loading.SINCE.keys() & {family.pipeline for family in PROMPTINGS}
    assert all(hasattr(diffusers, family.pipeline) for family in PROMPTINGS)


@pytest.mark.parametrize(("model", "name"), [("flux2_klein", "flux2_klein"), ("z_image_turbo", "z_image"),
                                             ("qwen_image", "qwen_image")])  # fmt: skip
def test_every_model_draws_from_a_folder(run, tmp_path, model: str, name: str) -> None:
    """The command, its config and a saved pipeline; the manifest names the teacher and its licence."""
    tiny(name).save_pretrained(tmp_path / "model")
    size = ("model.panel_height=16", "model.panel_width=16", "model.dtype=float32", "model.num_inference_steps=2")
    run("data_gen", f"model={model}", f"model.path={tmp_path / 'model'}", *size, "prompts=subjects", "num_grids=2",
        "prompts.layout=1x2", f"output_dir={tmp_path / 'grids'}", "device=cpu")  # fmt: skip
    grids = read_shards(tmp_path / "grids", "grids")
    assert [row["image"].size for row in grids] == [(32, 16)] * 2
    teacher = read_manifest(tmp_path / "grids", "data_gen")["teacher"]
    assert teacher == {"name": model, "path": str(tmp_path / "model"), "license": "apache-2.0"}


def test_the_licence_is_no_part_of_the_identity(run, tmp_path) -> None:
    command = ("teacher=oracle", "num_grids=1", f"output_dir={tmp_path}")
    run("data_gen", *command)
    assert "done already" in run("data_gen", *command, "model.license=mit")


def test_every_model_names_its_licence() -> None:
    files = sorted((Path(CONFIG_DIR) / "model").glob("*.yaml"))
    assert len(files) >= 10
    assert not [file.name for file in files if not OmegaConf.load(file).get("license")]
