"""The finished folders that an evaluation reads, opened and checked before any work."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from omegaconf import OmegaConf

from dsd.errors import UserError
from dsd.runs.manifest import MANIFEST, read_manifest
from dsd.runs.shards import read_shards
from dsd.toybox.world import SUBJECT


@dataclass(frozen=True)
class Run:
    """A finished folder of one stage."""

    name: str  # which input of the evaluation: "grids", "results.student/0"
    folder: Path
    manifest: dict[str, Any]
    config: str  # YAML, "" where the stage left none

    @property
    def fingerprint(self) -> dict[str, str]:
        """Changes when the folder's content does: `seconds` and file sizes are in its manifest."""
        digest = hashlib.sha256((self.folder / MANIFEST).read_bytes()).hexdigest()[:12]
        return {"config_hash": self.manifest.get("config_hash", ""), "manifest_hash": digest}


@dataclass(frozen=True)
class Inputs:
    """What each stage made; images stay on disk until they are looked at."""

    runs: list[Run]
    grids: Dataset | None  # of Grid
    verdicts: Dataset | None  # of Verdict
    pairs: Dataset | None  # of Pair, kept
    rejected: Dataset | None  # of Pair
    metrics: list[dict[str, float]]  # lines of the training's metrics.jsonl
    results: dict[str, Dataset]  # of Result, by run: "student/0"

    @property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        return {run.name: run.fingerprint for run in self.runs}

    def config(self, name: str) -> dict[str, Any]:
        """The config of a run, as plain values; {} where it left none."""
        (text,) = [run.config for run in self.runs if run.name == name]
        found = OmegaConf.to_container(OmegaConf.create(text or "{}"))
        assert isinstance(found, dict)
        return {str(key): value for key, value in found.items()}

    @property
    def costs(self) -> dict[str, dict[str, float]]:
        """Each stage's seconds and peak memory in MB, as far as its manifest says."""
        kinds = ("seconds", "peak_memory_mb")
        return {kind: {run.name: run.manifest[kind] for run in self.runs if kind in run.manifest} for kind in kinds}


def open_inputs(
    grids: str | None, curated: str | None, adapter: str | None, results: Mapping[str, str | None]
) -> Inputs:
    """Read every manifest, shard header and truth. UserError names the folder and what it lacks."""
    folders = {"grids": (grids, "data_gen"), "curated": (curated, "curation"), "adapter": (adapter, "train")}
    folders |= {f"results.{name}": (folder, "infer") for name, folder in results.items()}
    runs = {name: open_run(name, folder, stage) for name, (folder, stage) in folders.items() if folder}
    if not any(name.startswith("results.") for name in runs):
        raise UserError("results: nothing to evaluate; name folders of dsd-infer, such as results={student: FOLDER}")
    if "grids" in runs and "curated" in runs:
        refuse_strangers(runs["grids"], runs["curated"])

    def shards(name: str, shard_name: str, folder: Path | None = None) -> Dataset | None:
        return read_shards(folder or runs[name].folder, shard_name) if name in runs else None

    sheets = shards("grids", "grids")
    verdicts = shards("curated", "verdicts", verdicts_folder(runs["curated"]) if "curated" in runs else None)
    if sheets is not None and verdicts is not None and (unknown := set(verdicts["grid"]) - set(sheets["index"])):
        raise UserError(f"curated={curated} judged grid {min(unknown)}, which grids={grids} does not have")
    return Inputs(
        runs=list(runs.values()),
        grids=sheets,
        verdicts=verdicts,
        pairs=shards("curated", "pairs"),
        rejected=shards("curated", "rejected"),
        metrics=read_metrics(runs["adapter"].folder / "metrics.jsonl") if "adapter" in runs else [],
        results={
            name.split(".", 1)[1]: open_results(run.folder) for name, run in runs.items() if name.startswith("results.")
        },
    )


def open_run(name: str, folder: str, stage: str) -> Run:
    manifest, config = read_manifest(folder, stage), Path(folder) / "config.yaml"
    return Run(name, Path(folder), manifest, config.read_text(encoding="utf-8") if config.is_file() else "")


def refuse_strangers(grids: Run, curated: Run) -> None:
    judged, given = curated.manifest.get("grids_config_hash"), grids.manifest.get("config_hash")
    if judged and given and judged != given:
        raise UserError(
            f"curated={curated.folder} judged other grids (config {judged}) than grids={grids.folder} has "
            f"(config {given}); give the grids that it judged"
        )


def verdicts_folder(curated: Run) -> Path:
    """Beside the pairs, unless several selections share the verdicts of one judge (`verdicts_dir`)."""
    if (curated.folder / "verdicts").is_dir():
        return curated.folder
    shared = OmegaConf.select(OmegaConf.create(curated.config or "{}"), "verdicts_dir")
    return Path(shared) if shared else curated.folder


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Lines that hold a step and its loss; others (validation, samples) are passed over."""
    if not path.is_file():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        return [line for line in lines if "step" in line and "loss" in line]
    except ValueError as error:
        raise UserError(f"{path}: not JSON lines ({error}); run dsd-train again") from error


def open_results(folder: Path) -> Dataset:
    """The results of one method; their truths must be readable and settle every attribute of a subject."""
    results = read_shards(folder, "results")
    if len(results) == 0:
        raise UserError(f"{folder}: holds no results; give dsd-infer at least one job and run it again")
    if len(methods := sorted(set(results["method"]))) > 1:
        raise UserError(f"{folder}: mixes the methods {', '.join(methods)}; give each a run of dsd-infer of its own")
    for job, text in zip(results["job"], results["truth"]):
        try:
            absent = sorted(set(SUBJECT) - set(json.loads(text))) if text else []
        except (ValueError, TypeError) as error:
            raise UserError(f"{folder}: job {job}: truth {text!r} is not a JSON object ({error})") from error
        if absent:
            raise UserError(f"{folder}: job {job}: truth lacks {', '.join(absent)}; leave it empty if it is not known")
    return results
