"""The stage as a command, on folders whose truth is known."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from worlds import curated_run, grids_run, infer_run, train_run

from dsd.evaluate.__main__ import main


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of finished runs; tests that change one copy it first."""
    folder = tmp_path_factory.mktemp("made")
    grids = grids_run(folder / "grids")
    curated_run(folder / "curated", grids, grids_config_hash="c0ffee")
    train_run(folder / "adapter")
    for run, method in (("student", "perfect"), ("text_only", "text_only"), ("copy_paste", "copy_paste")):
        infer_run(folder / run, method)
    infer_run(folder / "uncurated0", "text_only", seed=1)
    infer_run(folder / "uncurated1", "text_only", seed=2)
    return folder


def evaluate(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """Run the command; its exit code."""
    every = [
        f"output_dir={folder / 'report'}",
        "num_resamples=200",
        "measure.toybox.recogniser._target_=worlds.PixelRecogniser",
    ]
    given = {argument.split("=")[0] for argument in arguments}
    monkeypatch.setattr(sys, "argv", ["dsd-evaluate", *(e for e in every if e.split("=")[0] not in given), *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def everything(folder: Path) -> list[str]:
    runs = ["student", "text_only", "copy_paste"]
    results = [f"{run}: {folder / run}" for run in runs]
    results += [f"uncurated/{i}: {folder / f'uncurated{i}'}" for i in range(2)]
    inputs = [f"{name}={folder / name}" for name in ("grids", "curated", "adapter")]
    return [*inputs, "results={" + ", ".join(results) + "}"]


def test_everything_is_measured_shown_and_not_done_twice(made, tmp_path, monkeypatch, capsys, caplog) -> None:
    out = tmp_path / "report"
    arguments = [f"output_dir={out}", *everything(made)]
    assert evaluate(monkeypatch, tmp_path, *arguments) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["arms"]["student"]["CPxPF"]["value"] == 1
    assert len(summary["arms"]["uncurated"]["runs"]) == 2
    assert set(summary["comparisons"]) == {"student / text_only", "student - uncurated"}
    assert summary["teacher"]["agreement"]["value"] == 0.875
    accuracy = summary["curation"]["accuracy"]
    assert accuracy["verdict_same"]["recall"]["value"] == 1
    assert accuracy["verdict_same"]["precision"]["value"] == pytest.approx(42 / 43, abs=1e-4)
    assert accuracy["kept"]["recall"]["value"] == pytest.approx(34 / 42, abs=1e-4)
    assert list(summary["curation"]["reasons"]) == ["low confidence", "not the same subject"]
    assert re.search(r"^student +1 +12 +1\.000", capsys.readouterr().out, re.MULTILINE)
    assert "| student | 1 | 12 | 1.000" in (out / "table.md").read_text()

    written = {f: f.stat().st_mtime_ns for f in out.iterdir() if f.is_file()}
    assert {f.name for f in written} == {
        "config.yaml", "summary.json", "table.md", "table.tex", "measures.png", "report.html", "manifest.json",
        "scored-00000-of-00001.stats.json", "scored_grids-00000-of-00001.stats.json",
    }  # fmt: skip
    assert evaluate(monkeypatch, tmp_path, *arguments) == 0
    assert "done already" in caplog.text
    assert {f: f.stat().st_mtime_ns for f in out.iterdir() if f.is_file()} == written


def test_the_report_needs_no_other_file(made, tmp_path, monkeypatch) -> None:
    assert evaluate(monkeypatch, tmp_path, *everything(made)) == 0
    html = (tmp_path / "report" / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(sources) > 40
    assert all(source.startswith("data:image/") for source in sources)
    assert "<script src" not in html
    assert "url(" not in html
    for shown in ("belly: ", "low confidence", "prefers-color-scheme", "student / text only"):
        assert shown in html


def test_results_alone_are_enough(made, tmp_path, monkeypatch) -> None:
    assert evaluate(monkeypatch, tmp_path, f"results={{student: {made / 'student'}}}") == 0
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["teacher"] is None
    assert summary["curation"] is None
    assert summary["comparisons"] == {}
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_changed_inputs_are_evaluated_again(made, tmp_path, monkeypatch) -> None:
    shutil.copytree(made / "text_only", tmp_path / "text_only")
    argument = f"results={{student: {tmp_path / 'text_only'}}}"
    assert evaluate(monkeypatch, tmp_path, argument) == 0
    first = json.loads((tmp_path / "report" / "summary.json").read_text())
    shutil.rmtree(tmp_path / "text_only")
    infer_run(tmp_path / "text_only", "perfect", num=5)
    assert evaluate(monkeypatch, tmp_path, argument) == 0
    second = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert first["arms"]["student"]["CP"]["value"] < second["arms"]["student"]["CP"]["value"] == 1
    assert first["inputs"] != second["inputs"]
    assert second["seconds"] == {"results.student": 3.2}


def test_the_same_inputs_give_the_same_files(made, tmp_path, monkeypatch) -> None:
    for out in ("a", "b"):
        assert evaluate(monkeypatch, tmp_path, f"output_dir={tmp_path / out}", *everything(made)) == 0
    for name in ("summary.json", "table.md", "report.html", "measures.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["results={}"], "results: nothing to evaluate"),
        (["results={student: {made}/nowhere}"], "nowhere: no such folder"),
        (["results={student: {made}/grids}"], "made by dsd-data-gen"),
        (["results={student: {made}/student}", "grids={made}/curated"], "made by dsd-curate"),
        (["results={student: {made}/student}", "num_resamples=3"], "num_resamples=3: at least 100"),
        (
            ["results={student/0: {made}/student}", "baseline=x"],
            "baseline=x: not an arm of results; choose one of student",
        ),
        (["results={student: {made}/student}", "seed=x"], "seed"),
        (["results={student: {made}/student}", "measure=nobody"], "measure=nobody: no such choice"),
    ],
)
def test_bad_input_is_one_line(arguments, said, made, tmp_path, monkeypatch, capfd) -> None:
    arguments = [argument.replace("{made}", str(made)) for argument in arguments]
    assert evaluate(monkeypatch, tmp_path, *arguments) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert said in error
    assert not (tmp_path / "report" / "config.yaml").exists(), "a misspelt input does not bind the folder"


@pytest.mark.parametrize(
    ("truth", "said"),
    [("{belly", "is not a JSON object"), ("3", "is not a JSON object"), ('{"belly": "red"}', "truth lacks body")],
)
def test_a_broken_truth_is_named(truth, said, tmp_path, monkeypatch, capfd) -> None:
    folder = infer_run(tmp_path / "student", "copy_paste", num=2, truth=truth)
    assert evaluate(monkeypatch, tmp_path, f"results={{student: {folder}}}") == 2
    error = capfd.readouterr().err
    assert "job 000" in error
    assert said in error


def test_verdicts_that_several_selections_share_are_found(made, tmp_path, monkeypatch) -> None:
    shutil.copytree(made / "curated", tmp_path / "curated")
    (tmp_path / "curated" / "verdicts").rename(tmp_path / "verdicts")
    manifest = json.loads((tmp_path / "curated" / "manifest.json").read_text())
    manifest["files"] = {name: size for name, size in manifest["files"].items() if "verdicts" not in name}
    (tmp_path / "curated" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "curated" / "config.yaml").write_text(f"verdicts_dir: {tmp_path}\n")
    arguments = [f"grids={made / 'grids'}", f"curated={tmp_path / 'curated'}", f"results={{s: {made / 'student'}}}"]
    assert evaluate(monkeypatch, tmp_path, *arguments) == 0
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["curation"]["accuracy"]["num_pairs"] == 48


def test_a_half_written_shard_is_named(made, tmp_path, monkeypatch, capfd) -> None:
    shutil.copytree(made / "student", tmp_path / "student")
    (shard,) = (tmp_path / "student" / "results").iterdir()
    shard.write_bytes(shard.read_bytes()[:-100])
    assert evaluate(monkeypatch, tmp_path, f"results={{student: {tmp_path / 'student'}}}") == 2
    assert shard.name in capfd.readouterr().err


def test_pairs_of_other_grids_are_refused(made, tmp_path, monkeypatch, capfd) -> None:
    curated_run(tmp_path / "curated", made / "grids", grids_config_hash="0ther")
    arguments = [
        f"grids={made / 'grids'}",
        f"curated={tmp_path / 'curated'}",
        f"results={{student: {made / 'student'}}}",
    ]
    assert evaluate(monkeypatch, tmp_path, *arguments) == 2
    assert "judged other grids (config 0ther)" in capfd.readouterr().err


def test_a_folder_of_another_config_is_refused(made, tmp_path, monkeypatch, capfd) -> None:
    argument = f"results={{student: {made / 'student'}}}"
    assert evaluate(monkeypatch, tmp_path, argument) == 0
    assert evaluate(monkeypatch, tmp_path, argument, "seed=1") == 2
    assert "seed: 0 there, 1 now" in capfd.readouterr().err
