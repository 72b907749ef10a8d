"""The finished folders that an evaluation reads, opened and checked before any work."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from omegaconf import OmegaConf

from dsd.errors import UserError
from dsd.runs.manifest import MANIFEST, read_manifest
from dsd.runs.shards import read_shards


@dataclass(frozen=True)
class Finished:
    """A finished folder of one stage."""

    name: str  # which input of the evaluation: "grids", "results.student/0"
    folder: Path
    manifest: dict[str, Any]
    config: str  # YAML, "" where the stage left none

    @property
    def settings(self) -> str:
        """The config as YAML, without the identity that follows from it."""
        config = OmegaConf.create(self.config or "{}")
        config.pop("identity", None)
        return OmegaConf.to_yaml(config) if config else ""

    @property
    def fingerprint(self) -> dict[str, str]:
        """Name the folder's content by its manifest, which holds the sizes of its files."""
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

    @property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Name the content of every folder, by input."""
        return {run.name: run.fingerprint for run in self.runs}

    def config(self, name: str) -> dict[str, Any]:
        """Read the config of a run as plain values; {} where it left none."""
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
    """Read every manifest and shard header. UserError names the folder and what it lacks."""
    folders = {"grids": (grids, "data_gen"), "curated": (curated, "curation"), "adapter": (adapter, "train")}
    folders |= {f"results.{name}": (folder, "infer") for name, folder in results.items()}
    runs = {name: open_run(name, folder, stage) for name, (folder, stage) in folders.items() if folder}
    if "grids" in runs and "curated" in runs:
        refuse_strangers(runs["grids"], runs["curated"])

    def shards(name: str, shard_name: str, folder: Path | None = None) -> Dataset | None:
        return read_shards(folder or runs[name].folder, shard_name) if name in runs else None

    drawn = shards("grids", "grids")
    verdicts = shards("curated", "verdicts", verdicts_folder(runs["curated"]) if "curated" in runs else None)
    if drawn is not None and verdicts is not None and (unknown := set(verdicts["grid"]) - set(drawn["index"])):
        raise UserError(f"curated={curated} judged grid {min(unknown)}, which grids={grids} does not have")
    return Inputs(
        runs=list(runs.values()),
        grids=drawn,
        verdicts=verdicts,
        pairs=shards("curated", "pairs"),
        rejected=shards("curated", "rejected"),
        metrics=read_metrics(runs["adapter"].folder / "metrics.jsonl") if "adapter" in runs else [],
        results={
            name.split(".", 1)[1]: open_results(run.folder) for name, run in runs.items() if name.startswith("results.")
        },
    )


def open_run(name: str, folder: str, stage: str) -> Finished:
    """Open a finished folder of a stage."""
    manifest, config = read_manifest(folder, stage), Path(folder) / "config.yaml"
    return Finished(name, Path(folder), manifest, config.read_text(encoding="utf-8") if config.is_file() else "")


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
    shared = OmegaConf.select(OmegaConf.create(curated.config or "{}"), "verdicts_dir")
    return Path(shared) if shared else curated.folder


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the lines that hold a step and its loss; skip others (validation, samples)."""
    if not path.is_file():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        return [line for line in lines if "step" in line and "loss" in line]
    except ValueError as error:
        raise UserError(f"{path}: not JSON lines ({error}); run dsd-train again") from error


def open_results(folder: Path) -> Dataset:
    """Open the results of one method. UserError where there are none or they mix methods."""
    results = read_shards(folder, "results")
    if len(results) == 0:
        raise UserError(f"{folder}: holds no results; give dsd-infer at least one job and run it again")
    if len(methods := sorted(set(results["method"]))) > 1:
        raise UserError(f"{folder}: mixes the methods {', '.join(methods)}; give each a run of dsd-infer of its own")
    return results


def without_images(pairs: Dataset | None) -> Sequence[Mapping[str, Any]]:
    """Read grid, panels and rejection of every pair; decoding the pictures would take a hundred times longer."""
    return [] if pairs is None else list(pairs.select_columns(["grid", "reference_panel", "target_panel", "rejection"]))
