"""The measuring scripts: never on seconds, but on exactness and on counts."""

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dsd.models.flux_dev import random_flux_dev

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "scripts" / "bench"
pytestmark = pytest.mark.timeout(1800)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Callable[..., dict]:
    """Run a script in this process, as Python would; return its report."""

    def bench(name: str, *arguments: object) -> dict:
        report = tmp_path / "report.json"
        monkeypatch.syspath_prepend(str(BENCH))  # as Python does for a script; they share scripts/bench/gpu
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments), "--output", str(report)])
        load(name).main()
        return json.loads(report.read_text())

    return bench


def test_ours_does_less_than_the_port_and_the_same(bench, capsys) -> None:
    """Of 28 guided steps 80 forwards are released; equal scales need 54 rows, and none is run by itself."""
    found = bench("inference", "--repeats", 1, "--steps", 4, "--device", "cpu")
    assert found["per_forward_relative_l2"] < 1e-5
    counts = {row["case"]: (row["port"], row["ours"]) for row in found["cases"]}
    for case, port, ours in (("one pass", 4, 4), ("dual guidance, equal scales", 8, 6), ("dual guidance", 8, 8)):
        assert (counts[case][0]["forwards"], counts[case][1]["rows"]) == (port, ours)
        assert counts[case][1]["forwards"] == 4
        assert (counts[case][0]["text"], counts[case][1]["text"]) == (2, 1)
    assert all(row["final_latents_relative_l2"] < 1e-3 for row in found["cases"])
    assert "| dual guidance |" in capsys.readouterr().out


@pytest.mark.process
def test_memory_is_reported_and_what_cannot_be_says_why(bench) -> None:
    settings = ("offload=none quantization=int8", "offload=none quantization=nf4")
    whole, refused = bench("memory", *settings, "--device", "cpu", "--steps", 1)["settings"]
    assert 0.2 < whole["system_gib"] < 8
    assert refused["refused"].startswith("quantization=nf4 needs a GPU")


def test_the_recipes_are_settings_of_dsd_infer() -> None:
    memory = load("memory")
    assert [str(memory.compose_setting(setting, "flux_dev").offload.name) for setting in memory.RECIPES]


def test_the_plumbing_of_curation_is_measured(bench) -> None:
    found = bench("curation", "--num_pairs", 60, "--size", 16)
    assert found["pairs"] == 60
    assert found["calls"] == 60 + 40 + 2 * 60  # a verdict a pair, a caption a panel, an instruction a direction
    assert found["pairs_a_second"] > 0


def test_grids_a_second_are_measured_on_both_sides(bench) -> None:
    found = bench("data_gen", "--repeats", 1, "--batch_size", 1, "--device", "cpu")
    assert found["ratio"] > 0
    assert found["batch_size"] == 1


def test_random_weights_have_the_published_shape() -> None:
    """Parameters as in the published checkpoints' files (bf16: 23.8 GB and 9.5 GB)."""
    toybox = ROOT / "dsd" / "toybox" / "weights" / "teacher"
    pipeline = random_flux_dev(torch.bfloat16, "meta", tokenizers=toybox)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in pipeline.components.items()
             if isinstance(part, torch.nn.Module)}  # fmt: skip
    assert sizes["transformer"] == 11_901_408_320
    assert sizes["text_encoder_2"] == 4_762_310_656
    assert sizes["text_encoder"] == 123_060_480
    assert sizes["vae"] == 83_819_683


def test_training_bench_compares_equal_steps(bench) -> None:
    found = bench("train", "--repeats", 1, "--batch_size", 2, "--device", "cpu")
    assert found["loss_difference"] < 1e-5
    assert found["ratio"] > 0
