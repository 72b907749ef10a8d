"""The finished folders that an evaluation reads, opened and checked before any work."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from omegaconf import OmegaConf
from pydantic import BaseModel, TypeAdapter, ValidationError

from dsd.errors import UserError
from dsd.evaluate.foreign import is_foreign, open_foreign
from dsd.evaluate.records import open_records
from dsd.io.inputs import first_problem, read_text
from dsd.io.records import NOT_ATTEMPTED, Grid, Pair, Result, Verdict, reason_class
from dsd.pipeline.jobs import JobSource
from dsd.runs.identity import CONFIG, read_config
from dsd.runs.manifest import MANIFEST, read_manifest
from dsd.runs.shards import read_failures


@dataclass(frozen=True)
class Finished:
    """A finished folder of one stage."""

    name: str  # which input of the evaluation: "grids", "results.student/0"
    folder: Path
    manifest: dict[str, Any]
    config: dict[str, Any]  # {} where the stage left none
    content: str = ""  # names the files of another tool, which left no manifest

    @property
    def settings(self) -> str:
        """The config as YAML, without the identity that follows from it."""
        config = {key: value for key, value in self.config.items() if key != "identity"}
        return OmegaConf.to_yaml(OmegaConf.create(config)) if config else ""

    @property
    def fingerprint(self) -> dict[str, str]:
        """Name the folder's content by its manifest, which holds the sizes of its files, or by the files themselves."""
        if self.content:
            return {"config_hash": "", "manifest_hash": self.content}
        digest = hashlib.sha256((self.folder / MANIFEST).read_bytes()).hexdigest()[:12]
        return {"config_hash": self.manifest.get("config_hash", ""), "manifest_hash": digest}


@dataclass(frozen=True)
class Inputs:
    """What each stage made; images stay on disk until they are looked at."""

    runs: list[Finished]
    grids: Dataset | None  # of Grid
    verdicts: Dataset | None  # of Verdict
    pairs: Dataset | None  # of Pair, kept
    rejected: Dataset | None  # of Pair
    metrics: list[dict[str, float]]  # lines of the training's metrics.jsonl
    results: dict[str, Dataset]  # of Result, by run: "student/0"
    coverage: dict[str, dict[str, int]]  # by run: jobs, and how many of them have no picture, by what became of them
    foreign: frozenset[str] = frozenset()  # runs whose pictures another tool made

    @property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Name the content of every folder, by input."""
        return {run.name: run.fingerprint for run in self.runs}

    def config(self, name: str) -> dict[str, Any]:
        """Read the config of a run as plain values; {} where it left none."""
        (config,) = [run.config for run in self.runs if run.name == name]
        return config

    @property
    def costs(self) -> dict[str, dict[str, float]]:
        """Each stage's seconds and peak memory in MB, as far as its manifest says."""
        kinds = ("seconds", "peak_memory_mb")
        return {kind: {run.name: run.manifest[kind] for run in self.runs if kind in run.manifest} for kind in kinds}


def open_inputs(
    grids: str | None, curated: str | None, adapter: str | None, results: Mapping[str, str | None],
    jobs: JobSource | None = None,
) -> Inputs:  # fmt: skip
    """Read every manifest and shard header. UserError names the folder and what it lacks.

    `jobs` has the references and prompts of pictures that other tools made.
    """
    folders = {"grids": (grids, "data_gen"), "curated": (curated, "curation"), "adapter": (adapter, "train")}
    runs = {name: open_run(name, folder, stage) for name, (folder, stage) in folders.items() if folder}
    drawings = {name: open_drawings(f"results.{name}", folder, jobs) for name, folder in results.items() if folder}
    if "grids" in runs and "curated" in runs:
        refuse_strangers(runs["grids"], runs["curated"])

    def shards(name: str, shard_name: str, record: type, folder: Path | None = None) -> Dataset | None:
        return open_records(folder or runs[name].folder, shard_name, record) if name in runs else None

    drawn = shards("grids", "grids", Grid)
    verdicts = shards("curated", "verdicts", Verdict, verdicts_folder(runs["curated"]) if "curated" in runs else None)
    if drawn is not None and verdicts is not None and (unknown := set(verdicts["grid"]) - set(drawn["index"])):
        raise UserError(f"curated={curated} judged grid {min(unknown)}, which grids={grids} does not have")
    return Inputs(
        runs=[*runs.values(), *(drawing.run for drawing in drawings.values())],
        grids=drawn,
        verdicts=verdicts,
        pairs=shards("curated", "pairs", Pair),
        rejected=shards("curated", "rejected", Pair),
        metrics=read_metrics(runs["adapter"].folder / "metrics.jsonl") if "adapter" in runs else [],
        results={name: drawing.rows for name, drawing in drawings.items()},
        coverage={name: drawing.coverage for name, drawing in drawings.items()},
        foreign=frozenset(name for name, drawing in drawings.items() if drawing.run.content),
    )


@dataclass(frozen=True)
class Drawings:
    """The pictures of a run."""

    run: Finished
    rows: Dataset  # of Result
    coverage: dict[str, int]


def open_drawings(name: str, folder: str, jobs: JobSource | None) -> Drawings:
    """Open a finished folder of dsd-infer, or pictures that another tool made."""
    if not is_foreign(folder):
        run = open_run(name, folder, "infer")
        rows = open_results(run.folder)
        return Drawings(run, rows, coverage_of(run.folder, len(rows)))
    found = open_foreign(name, folder, jobs)
    counts = {"results": len(found.results), **({"of_no_job": found.others} if found.others else {})}
    missing = {"no_picture": found.missing} if found.missing else {}
    run = Finished(name, Path(folder), {"counts": counts}, {}, found.content)
    return Drawings(run, found.results, {"jobs": len(found.results) + found.missing, **missing})


def coverage_of(folder: Path, num_results: int) -> dict[str, int]:
    """Count the jobs of a run of dsd-infer, those that it did not attempt, and those that failed."""
    reasons = [reason_class(failure["reason"]) for failure in read_failures(folder, "results")]
    left = reasons.count(NOT_ATTEMPTED)
    counts = {"not_attempted": left, "failed": len(reasons) - left}
    return {"jobs": num_results + len(reasons), **{name: number for name, number in counts.items() if number}}


def open_run(name: str, folder: str, stage: str) -> Finished:
    """Open a finished folder of a stage."""
    manifest, config = read_manifest(folder, stage), Path(folder) / CONFIG
    return Finished(name, Path(folder), manifest, read_config(config) if config.is_file() else {})


def refuse_strangers(grids: Finished, curated: Finished) -> None:
    """UserError where the curation judged other grids than those given."""
    judged, given = curated.manifest.get("grids_config_hash"), grids.manifest.get("config_hash")
    if judged and given and judged != given:
        raise UserError(
            f"curated={curated.folder} judged other grids (config {judged}) than grids={grids.folder} has "
            f"(config {given}); give the grids that it judged"
        )


def verdicts_folder(curated: Finished) -> Path:
    """Find the verdicts: beside the pairs, or in the `verdicts_dir` that several selections share."""
    if (curated.folder / "verdicts").is_dir():
        return curated.folder
    shared = curated.config.get("verdicts_dir")
    return Path(shared) if isinstance(shared, str) and shared else curated.folder


class Measured(BaseModel):
    """A line of metrics.jsonl."""

    step: int
    loss: float


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the lines that hold a step and its loss; skip others (validation, samples)."""
    if not path.is_file():
        return []
    rows, found = TypeAdapter(dict[str, Any]), []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        try:
            row = rows.validate_json(line) if line.strip() else {}
            if {"step", "loss"} <= row.keys():
                found.append(Measured.model_validate(row).model_dump())
        except ValidationError as error:
            raise UserError(f"{path}:{number}: {first_problem(error)}; run dsd-train again") from error
    return found


def open_results(folder: Path) -> Dataset:
    """Open the results of one method. UserError where there are none or they mix methods."""
    results = open_records(folder, "results", Result)
    if len(results) == 0:
        raise UserError(f"{folder}: holds no results; give dsd-infer at least one job and run it again")
    if len(methods := sorted(set(results["method"]))) > 1:
        raise UserError(f"{folder}: mixes the methods {', '.join(methods)}; give each a run of dsd-infer of its own")
    return results


def without_images(pairs: Dataset | None) -> Sequence[Mapping[str, Any]]:
    """Read grid, panels and rejection of every pair; decoding the pictures would take a hundred times longer."""
    return [] if pairs is None else list(pairs.select_columns(["grid", "reference_panel", "target_panel", "rejection"]))
