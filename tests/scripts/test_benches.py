"""The measuring scripts: never on seconds, but on exactness and on counts."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from dsd.models.flux_dev import random_flux_dev

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / name), *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_ours_does_less_than_the_port_and_the_same(tmp_path) -> None:
    """Of 28 guided steps 80 forwards are released; equal scales need 54 rows, and none is run by itself."""
    report = tmp_path / "report.json"
    said = script("bench_inference.py", "--repeats", 1, "--steps", 8, "--device", "cpu", "--output", report)
    found = json.loads(report.read_text())
    assert found["per_forward_relative_l2"] < 1e-5
    counts = {row["case"]: (row["port"], row["ours"]) for row in found["cases"]}
    for case, port, ours in (("one pass", 8, 8), ("dual guidance, equal scales", 20, 14), ("dual guidance", 20, 20)):
        assert (counts[case][0]["forwards"], counts[case][1]["rows"]) == (port, ours)
        assert counts[case][1]["forwards"] == 8
        assert (counts[case][0]["text"], counts[case][1]["text"]) == (2, 1)
    assert all(row["final_latents_relative_l2"] < 1e-3 for row in found["cases"])
    assert "| dual guidance |" in said


def test_memory_is_reported_and_what_cannot_be_says_why(tmp_path) -> None:
    report = tmp_path / "report.json"
    settings = ("memory=none quantization=int8", "memory=none quantization=nf4")
    script("memory_report.py", *settings, "--device", "cpu", "--steps", 1, "--output", report)
    whole, refused = json.loads(report.read_text())["settings"]
    assert 0.2 < whole["system_gib"] < 8
    assert refused["refused"].startswith("quantization=nf4 needs a GPU")


def test_the_plumbing_of_curation_is_measured(tmp_path) -> None:
    report = tmp_path / "report.json"
    script("bench_curation.py", "--num_pairs", 60, "--size", 16, "--output", report)
    found = json.loads(report.read_text())
    assert found["pairs"] == 60
    assert found["calls"] == 60 + 40 + 2 * 60  # a verdict a pair, a caption a panel, an instruction a direction
    assert found["pairs_a_second"] > 0


def test_grids_a_second_are_measured_on_both_sides(tmp_path) -> None:
    report = tmp_path / "report.json"
    script("bench_data_gen.py", "--repeats", 1, "--batch_size", 2, "--device", "cpu", "--output", report)
    found = json.loads(report.read_text())
    assert found["ratio"] > 0
    assert found["batch_size"] == 2


def test_random_weights_have_the_published_shape() -> None:
    """Parameters as in the published checkpoints' files (bf16: 23.8 GB and 9.5 GB)."""
    pipeline = random_flux_dev(torch.bfloat16, "meta")
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in pipeline.components.items()
             if isinstance(part, torch.nn.Module)}  # fmt: skip
    assert sizes["transformer"] == 11_901_408_320
    assert sizes["text_encoder_2"] == 4_762_310_656
    assert sizes["text_encoder"] == 123_060_480
    assert sizes["vae"] == 83_819_683


def test_training_bench_compares_equal_steps(tmp_path) -> None:
    report = tmp_path / "report.json"
    script("bench_train.py", "--repeats", 1, "--batch_size", 2, "--device", "cpu", "--output", report)
    found = json.loads(report.read_text())
    assert found["loss_difference"] < 1e-5
    assert found["ratio"] > 0
