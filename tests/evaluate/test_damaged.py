"""Folders of other stages with damage of every kind: the evaluation says what is wrong in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_evaluate import evaluate, everything, made  # noqa: F401


def manifest(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def text(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def table(shard: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """Change the rows of a shard, and the manifest's sizes with them."""

    def rewrite(folder: Path) -> None:
        (path,) = (folder / shard).glob("*.parquet")
        pq.write_table(change(pq.read_table(path)), path)
        found = json.loads((folder / "manifest.json").read_text())
        manifest(files={name: (folder / name).stat().st_size for name in found["files"]})(folder)

    return rewrite


def column(name: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(rows: pa.Table) -> pa.Table:
        field = rows.schema.field(name)
        kind = field.type if isinstance(value, dict) else None
        return rows.set_column(rows.column_names.index(name), name, pa.array([value] * len(rows), kind))

    return change


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
CASES = {
    "seconds": ("student", manifest(seconds="x"), "not a manifest (seconds: "),
    "no seconds": ("student", manifest(seconds=None), "not a manifest (seconds: "),
    "memory": ("student", manifest(peak_memory_mb=[1]), "not a manifest (peak_memory_mb: "),
    "hash": ("grids", manifest(config_hash=3), "not a manifest (config_hash: "),
    "steps": ("curated", manifest(steps="x"), "not a manifest (steps: "),
    "deep": ("student", text("manifest.json", b"[" * 100_000), "not a manifest"),
    "loss": ("adapter", text("metrics.jsonl", b'{"step": "a", "loss": "b"}\n'), "metrics.jsonl:1: "),
    "metrics": ("adapter", text("metrics.jsonl", b"3\n"), "metrics.jsonl:1: "),
    "cut metrics": ("adapter", text("metrics.jsonl", b'{"step": 1, "lo'), "metrics.jsonl:1: "),
    "UTF-16": ("adapter", text("metrics.jsonl", b"\xff\xfe{\0"), "not UTF-8 text"),
    "YAML": ("student", text("config.yaml", b"a: ["), "not a readable config"),
    "a tag": ("grids", text("config.yaml", b"a: !!python/object:os.system x"), "not a readable config"),
    "bounds": ("curated", text("config.yaml", b"selection: {minimum: {a: x}}"), "selection: minimum.a"),
    "no prompt": ("student", table("results", column("prompt", None)), "empty values in column prompt"),
    "no truth": ("student", table("results", lambda rows: rows.drop_columns(["truth"])), "no column truth"),
    "no rows": ("student", table("results", lambda rows: rows.slice(0, 0)), "holds no results"),
    "truth": ("student", table("results", column("truth", '{"body": {}}')), "job 000: measure toybox cannot score it"),
    "junk": ("student", table("results", column("image", {"bytes": b"junk", "path": None})), "not a readable picture"),
    "EPS": ("student", table("results", column("image", {"bytes": EPS, "path": None})), "not a readable picture"),
    "null": ("student", table("results", column("image", {"bytes": None, "path": None})), "not a readable picture"),
    "layout": ("grids", table("grids", column("layout", "9x9")), "layout '9x9' is unknown"),
    "one index": ("grids", table("grids", column("index", 0)), "which grids="),
    "panels": ("curated", table("verdicts", column("first", 9)), "the grid has no such panels"),
    "scores": ("curated", table("verdicts", column("scores", "[]")), "scores '[]'"),
    "a score": ("curated", table("verdicts", column("scores", '{"a": "x"}')), "scores "),
    "no reason": ("curated", table("rejected", column("rejection", None)), "empty values in column rejection"),
}


@pytest.mark.parametrize("name", CASES)
def test_damage_is_one_line(name, made, tmp_path, monkeypatch, capfd) -> None:  # noqa: F811
    which, damage, words = CASES[name]
    copy = tmp_path / "made"
    shutil.copytree(made, copy)
    damage(copy / which)
    assert evaluate(monkeypatch, tmp_path, *everything(copy)) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert words in error.strip().splitlines()[-1]
    assert not (tmp_path / "report" / "manifest.json").exists()


def test_results_of_another_shape_are_measured(made, tmp_path, monkeypatch) -> None:  # noqa: F811
    """Foreign methods draw in sizes of their own; a measure fits them."""
    from dsd.io.pictures import png, read_picture

    def smaller(rows: pa.Table) -> pa.Table:
        pictures = [read_picture(row["bytes"]) for row in rows.column("image").to_pylist()]
        small = [{"bytes": png(p.resize((32, 48)).convert("L")), "path": None} for p in pictures]
        place = rows.column_names.index("image")
        return rows.set_column(place, "image", pa.array(small, rows.schema.field("image").type))

    shutil.copytree(made, tmp_path / "made")
    table("results", smaller)(tmp_path / "made" / "student")
    real = "measure.toybox.recogniser._target_=dsd.toybox.recogniser.Recogniser"
    assert evaluate(monkeypatch, tmp_path, f"results={{a: {tmp_path / 'made' / 'student'}}}", real, "device=cpu") == 0
