"""Make the tables of a finished evaluation again from what it stored: no provider, no pictures.

    dsd-evaluate replay=outputs/report output_dir=outputs/report_again

Numbers of judges are made from their raw answers, by the card that lies beside them; numbers of other measures are
taken as they were stored. The result must be the stored one, bit for bit.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dsd.errors import UserError
from dsd.evaluate import table
from dsd.evaluate.figures import measures_figure
from dsd.evaluate.inputs import Inputs
from dsd.evaluate.judged import read_scored
from dsd.evaluate.published import Published
from dsd.evaluate.scoring import Scored
from dsd.evaluate.summary import summarise
from dsd.io.files import atomic, write_json
from dsd.io.inputs import read_json
from dsd.metrics.judges.measure import VLMMeasure
from dsd.metrics.judges.ratings import stored_card
from dsd.metrics.measure import Scale, SelfCheck
from dsd.runs.identity import CONFIG, read_config
from dsd.runs.manifest import read_manifest
from dsd.runs.run import begin

log = logging.getLogger(__name__)
TABLES = ("summary.json", "table.md")
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
    """Write summary.json, table.md and measures.png again, and say whether they are the stored ones."""
    folder = Path(cfg.replay)
    if folder.resolve() == Path(cfg.output_dir).resolve():
        raise UserError(f"replay={cfg.replay}: choose another output_dir= than the evaluation's own")
    read_manifest(folder, "evaluate")
    run = begin(cfg)
    if run is None:
        return
    summary = remade(folder)
    write_json(run.output_dir / "summary.json", summary)
    every = list(table.tables(summary).values())
    with atomic(run.output_dir / "table.md") as temporary:
        temporary.write_text("\n\n".join(map(table.markdown, every)) + "\n", encoding="utf-8")
    with atomic(run.output_dir / "measures.png") as temporary:
        measures_figure(summary).savefig(temporary, dpi=160, facecolor="white")
    print("\n\n".join(map(table.plain, every)))
    differ = [name for name in TABLES if (run.output_dir / name).read_bytes() != (folder / name).read_bytes()]
    files = [run.output_dir / name for name in (*TABLES, "measures.png")]
    said = f"{' and '.join(differ)} differ from those in {folder}" if differ else f"the same as {folder}, bit for bit"
    run.finish({"differ": len(differ)}, said, run.output_dir / "table.md", files)
    if differ:
        raise UserError(f"replay={folder}: {said}; was a file edited, or is this another version of dsd?")


def remade(folder: Path) -> dict[str, Any]:
    """Make the summary of an evaluation again from its ratings and scores."""
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
    return {**before, **{name: value for name, value in numbers.items() if name not in OF_GRIDS}}


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
