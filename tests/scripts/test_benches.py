"""The measuring scripts: never on seconds, but on exactness and on counts."""

import importlib
import importlib.util
import json
import re
import sys
import time
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


def test_what_moved_or_was_repainted_is_noticed_and_light_is_not(bench, lite0, capsys) -> None:
    """Photographs moved by known amounts, each in another light than before."""
    found = bench(
        "geometry", "--photographs", 2, "--patches", "tf_efficientnet_lite0", "--checkpoint", lite0, "--layer=-3"
    )
    flow, median = found["found"]["flow"], found["median"]["flow"]["drift"]
    patches = found["median"]["patches"]["patch_matches"]
    assert flow["recall"] >= 0.9
    moved = [kind for kind in flow["kept"] if kind.startswith(("shift", "zoom")) or kind in ("flip", "swap")]
    assert [flow["kept"][kind] for kind in moved] == [0] * 10
    assert [median[f"shift {by} px"] for by in (1, 2, 4, 8, 16)] == pytest.approx([1, 2, 4, 8, 16], rel=0.05)
    assert found["found"]["residual"]["kept"]["repainted"] == 0 == found["found"]["light"]["kept"]["one light twice"]
    assert patches["good"] > patches["shift 2 px"] > patches["shift 8 px"]
    together = found["found"]["flow, residual and light"]
    assert together["precision"] == 1
    assert together["recall"] >= 0.6
    assert "| light_change ≥ 5 |" in capsys.readouterr().out


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
    found = bench("curation", "--num_grids", 10, "--size", 16, "--latency", 0.01)
    assert found["calls"] == 60 + 40 + 2 * 60  # a verdict a pair, a caption a panel, an instruction a direction
    assert found["encodes_a_panel"] == 1
    assert 0 < found["grids_a_second"] < found["ceiling_grids_a_second"] == pytest.approx(128 / 0.01 / 22)


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


@pytest.mark.slow
@pytest.mark.process
def test_the_gpu_report_runs_in_small(tmp_path, monkeypatch, capsys) -> None:
    """Every section runs on the toybox; what only a GPU has is a row that says so, and nothing else is skipped."""
    monkeypatch.syspath_prepend(str(BENCH))
    told = (
        "--shape",
        "toybox",
        "--device",
        "cpu",
        "--output",
        tmp_path,
        "--steps",
        3,
        "--repeats",
        1,
        "--deadline",
        3000,
    )
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", *map(str, told)])
    load("gpu_report").main(time.monotonic())
    rows = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    by_name = {row["name"]: row for row in rows}
    assert {row["section"] for row in rows} == {
        "machine", "ceilings", "drawing", "training", "grids", "tokens", "profile", "memory", "try",
    }  # fmt: skip
    goals = {row["goal"] for row in rows if row.get("goal") and row["measured"] > 0 and row["must"]}
    assert goals == {"P1", "P2", "P4", "P5", "P6", "P7", "P14"}
    only_gpus = r"attention, |try attention|try fp8|peak memory|memory, offload=model quantization=nf4"
    assert not [name for name, row in by_name.items() if "skipped" in row and not re.match(only_gpus, name)]
    assert by_name["port and ours, one forward"]["measured"] < 1e-5
    assert by_name["kernels of a forward"]["kernels"]
    assert 0.2 < by_name["memory, offload=none quantization=int8"]["measured"] < 8
    table = (tmp_path / "report.md").read_text()
    assert "| drawing | **P2** released / ours, guided | ratio |" in table
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_a_report_that_is_cut_off_leaves_its_rows(tmp_path, monkeypatch) -> None:
    """A section that never ends is cut off when its time is up, and the next one runs."""
    monkeypatch.syspath_prepend(str(BENCH))
    report = importlib.import_module("gpu.report")
    found = report.Report(tmp_path / "report.jsonl", torch.device("cpu"), time.monotonic() + 60)

    def endless() -> None:
        found.measure("first", "s", 1.0, lambda: 2.0, goal="P1", must=1.0)
        found.measure("second", "s", None, lambda: 1 / 0)
        while True:
            time.sleep(0.01)

    found.run("endless", 1.5, endless)
    found.run("next", 30, lambda: found.write(name="third", unit="s", measured=3.0))
    found.ends = time.monotonic()
    found.run("late", 30, lambda: None)
    rows = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert [(row["section"], row["name"]) for row in rows] == [
        ("endless", "first"), ("endless", "second"), ("endless", "endless"), ("next", "third"), ("late", "late"),
    ]  # fmt: skip
    assert (rows[0]["predicted"], rows[0]["measured"]) == (1.0, 2.0)
    assert rows[1]["skipped"].startswith("ZeroDivisionError")
    assert rows[2]["skipped"] == "cut off after 2 s"
    assert rows[4]["skipped"] == "the deadline has come"


def test_sides_share_what_is_frozen(monkeypatch) -> None:
    """The merged student owns the merged matrices alone: 5 of FLUX.1-dev's 24 GB."""
    monkeypatch.syspath_prepend(str(BENCH))
    port, ours = importlib.import_module("gpu.sides").students("toybox", torch.device("cpu"), 4)
    theirs = {p.data_ptr() for p in port.transformer.parameters()}
    own = [name for name, p in ours.transformer.named_parameters() if p.data_ptr() not in theirs]
    assert own
    assert all(name.endswith("weight") and ".attn." in name for name in own)
    assert any("lora_" in name for name, _ in port.transformer.named_parameters())
    assert not any("lora_" in name for name, _ in ours.transformer.named_parameters())


def test_growth_is_measured(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    told = ("--divide", "500", "--subjects", "checkpoints", "cached", "report", "--output", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["scale.py", *told])
    load("scale").main()
    rows = {row["subject"]: row for row in map(json.loads, (tmp_path / "scale.jsonl").read_text().splitlines())}
    assert set(rows) == {"checkpoints", "cached captions", "report and contact sheet, by pairs"}
    assert [found["size"] for found in rows["cached captions"]["sizes"]] == [2, 20, 200]
    assert rows["checkpoints"]["sizes"][2]["files"] == 2
    assert all(found["cpu_seconds"] > 0 for row in rows.values() for found in row["sizes"])
    assert "| cached captions | 2; 20; 200 |" in capsys.readouterr().out
    assert (tmp_path / "scale.png").stat().st_size > 10_000


def test_how_growth_is_judged(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    growth, scale = importlib.import_module("growth"), load("scale")

    def judged(times: list[float], memory: list[float]) -> tuple[str, str]:
        found = [{"cpu_seconds": t, "memory_mb": m} for t, m in zip(times, memory, strict=True)]
        row = scale.judged(growth.Subject("work", (1, 10, 100), growth.prompts, "it is held"), found)
        return row["time"], row["memory"]

    assert judged([0.01, 0.1, 1.0], [0, 0.5, 0.9]) == ("linear or better", "flat")
    assert judged([0.01, 0.1, 5.0], [1, 10, 100]) == ("faster than linear, unexplained", "it is held")


def test_both_sides_of_flux_dev_fit_one_gpu(monkeypatch) -> None:
    """29 GB for the released student and the merged one, where two copies would take 48; klein-4B's published size."""
    monkeypatch.syspath_prepend(str(BENCH))
    sides, meta = importlib.import_module("gpu.sides"), torch.device("meta")
    port, ours = sides.students("flux_dev", meta, 128, with_text=False)
    both = {id(p): p.numel() * p.element_size() for side in (port, ours) for p in side.transformer.parameters()}
    assert 29e9 < sum(both.values()) < 30e9
    assert sum(p.numel() for p in sides.klein_transformer("flux_dev", meta).parameters()) == 3_875_544_576
