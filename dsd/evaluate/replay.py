"""Make a finished evaluation again from what it stored: its numbers, tables, plot and report, without any provider.

    dsd-evaluate replay=outputs/report output_dir=outputs/report_again

Numbers of judges are made from their raw answers, by the card that lies beside them; numbers of other measures are
taken as they were stored. Numbers and tables must be the stored ones, bit for bit. The report takes its pictures from
the folders that were evaluated, and says which of them are no longer there. Of a folder that was moved, give the new
place: results={student: FOLDER}.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from dsd.errors import UserError
from dsd.evaluate.inputs import Inputs, open_inputs
from dsd.evaluate.outputs import NUMBERS, PICTURES, csv_files, write_outputs
from dsd.evaluate.published import Published
from dsd.evaluate.scoring import Scored
from dsd.evaluate.stored import Same, read_same, read_scored
from dsd.evaluate.summary import summarise
from dsd.io.inputs import read_json
from dsd.metrics.judges.measure import VLMMeasure
from dsd.metrics.judges.ratings import stored_card
from dsd.metrics.measure import Scale, SelfCheck
from dsd.pipeline.jobs import JobSource
from dsd.runs.identity import CONFIG, read_config
from dsd.runs.manifest import read_manifest
from dsd.runs.run import begin

log = logging.getLogger(__name__)
OF_GRIDS = ("teacher", "curation", "left_out")  # parts that no measure of results enters


@dataclass(frozen=True)
class Remembered:
    """A measure that is not asked again: what is known of it from the evaluation's summary."""

    scale: Scale
    checked: SelfCheck | None
    grids = None

    def self_check(self) -> SelfCheck | None:
        """What it knew of its own accuracy."""
        return self.checked


def replay(cfg: DictConfig) -> None:
    """Write all that an evaluation leaves again, and say whether it is the stored one."""
    folder = Path(cfg.replay)
    if folder.resolve() == Path(cfg.output_dir).resolve():
        raise UserError(f"replay={cfg.replay}: choose another output_dir= than the evaluation's own")
    read_manifest(folder, "evaluate")
    run = begin(cfg)
    if run is None:
        return
    summary, scored = remade(folder)
    inputs, same, missing = reopened(cfg, folder, summary)
    for name, why in missing.items():
        log.warning("evaluate: report.html lacks what it showed of %s: %s", name, why)
    files = write_outputs(run.output_dir, summary, inputs, same, scored, missing)
    differ = differing(folder, run.output_dir)
    numbers = [name for name in differ if name not in PICTURES]
    said = f"{', '.join(numbers)} differ from those in {folder}" if numbers else f"the same as {folder}, bit for bit"
    if looks := [name for name in differ if name in PICTURES and not (missing and name == "report.html")]:
        said += f"; {' and '.join(looks)} look otherwise (other versions of libraries draw otherwise)"
    run.finish({"differ": len(differ)}, said, run.output_dir / "report.html", files)
    if numbers:
        raise UserError(f"replay={folder}: {said}; was a file edited, or is this another version of dsd?")


def differing(folder: Path, other: Path) -> list[str]:
    """List the files of an evaluation that are not the same in both folders."""
    tables = {file.relative_to(one).as_posix() for one in (folder, other) for file in csv_files(one)}
    pairs = {name: (folder / name, other / name) for name in (*NUMBERS, *sorted(tables), *PICTURES)}
    return [
        name
        for name, both in pairs.items()
        if not all(map(Path.is_file, both)) or both[0].read_bytes() != both[1].read_bytes()
    ]


def remade(folder: Path) -> tuple[dict[str, Any], dict[str, list[Scored]]]:
    """Make the summary of an evaluation again from its ratings and scores, and the scored pictures of every run."""
    before, config = read_json(folder / "summary.json"), read_config(folder / CONFIG)
    if not isinstance(before, dict) or "measures" not in before:
        raise UserError(f"{folder / 'summary.json'}: not the summary of an evaluation of results")
    judges = {
        name: opened(folder, name, config["measure"][name], judge["card"])
        for name, judge in (before.get("judges") or {}).items()
    }
    measures: Mapping[str, Any] = {
        name: judges.get(name) or remembered(described) for name, described in before["measures"].items()
    }
    scored: dict[str, list[Scored]] = {}
    for run, _, one in read_scored(folder):
        scored.setdefault(run, []).append(rated_again(one, judges))
    nothing = Inputs([], None, None, None, None, [], {}, coverage=before["coverage"])
    published = Published.model_validate(before["published"]) if before["published"] else None
    numbers = summarise(
        nothing, measures, scored, None, {}, config["num_resamples"], config["seed"], config["baseline"], published
    )
    return {**before, **{name: value for name, value in numbers.items() if name not in OF_GRIDS}}, scored


def reopened(cfg: DictConfig, folder: Path, summary: Mapping[str, Any]) -> tuple[Inputs, Same, dict[str, str]]:
    """Open what an evaluation showed, as far as it is still there; and by name, why the rest is not."""
    config, missing, there = read_config(folder / CONFIG), dict[str, str](), dict[str, str]()
    given = {name: cfg[name] or config.get(name) for name in ("grids", "curated", "adapter")}
    given |= {f"results.{run}": cfg.results.get(run) or config["results"][run] for run in summary["coverage"]}
    try:
        jobs: JobSource | None = instantiate(config["jobs"]) if config.get("jobs") else None
    except UserError as error:
        jobs, missing["jobs"] = None, str(error)
    for name, where in given.items():
        try:
            if where and open_some({name: where}, jobs).fingerprints[name] != summary["inputs"][name]:
                missing[name] = f"{where}: its content has changed since"
            elif where:
                there[name] = where
        except UserError as error:
            missing[name] = str(error)
    same: Same = {}
    if summary["teacher"]:
        try:
            same = read_same(folder)
        except UserError as error:
            missing["the measure of the grids"] = str(error)
    return open_some(there, jobs), same, missing


def open_some(folders: Mapping[str, str], jobs: JobSource | None) -> Inputs:
    """Open inputs by their names in summary.json."""
    results = {name.partition(".")[2]: where for name, where in folders.items() if name.startswith("results.")}
    return open_inputs(folders.get("grids"), folders.get("curated"), folders.get("adapter"), results, jobs)


def opened(folder: Path, name: str, config: Mapping[str, Any], card_id: str) -> VLMMeasure:
    """Open the ratings of a judge, as it was."""
    ratings = folder / "ratings" / name
    if not ratings.is_dir():
        ratings = Path(config["folder"])
    card = stored_card(ratings, card_id)
    return VLMMeasure(None, card.model_dump(mode="json"), config["rubrics"], str(ratings), config["prefix"])


def remembered(described: Mapping[str, Any]) -> Remembered:
    """Make a measure of its description in a summary."""

    def plain(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    scale = {f.name: plain(described[f.name]) for f in fields(Scale) if f.name in described}
    scale["products"] = {name: tuple(factors) for name, factors in scale["products"].items()}
    checked = described["self_check"]
    return Remembered(Scale(**scale), SelfCheck(**checked) if checked else None)


def rated_again(one: Scored, judges: Mapping[str, VLMMeasure]) -> Scored:
    """Replace a picture's scores by judges with those that their ratings give."""
    scores, reasons, missing = dict(one.scores), dict(one.reasons), dict(one.missing)
    for name, judge in judges.items():
        for kept in (scores, reasons, missing):
            for known in judge.scale.names:
                kept.pop(known, None)
        row = judge.rate(one.ratings.get(name, []))
        scores, reasons, missing = {**scores, **row}, {**reasons, **row.reasons}, {**missing, **row.missing}
    return replace(one, scores=scores, reasons=reasons, missing=missing)
