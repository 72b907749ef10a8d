"""Grids -> judged pairs. Reads a folder of dsd-data-gen; writes verdicts, `pairs/`, `rejected/` and a report."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dsd.chat.service import models, spent
from dsd.curation.agreement import agreement, check_labels, read_labels, table
from dsd.curation.geometries import load_geometries, score_names, scores_elsewhere, target_class
from dsd.curation.grids import read_grids
from dsd.curation.judge import Judge
from dsd.curation.judging import Inspection, judge_grids, judged_swapped
from dsd.curation.pairs import PairWriter
from dsd.curation.quality import QUALITIES
from dsd.curation.report import by_kind, per_thousand, sheet_of, steps, write_report
from dsd.curation.seams import CUTTERS
from dsd.curation.selection import Bounds, Selection, check_scores
from dsd.curation.settings import Mode
from dsd.curation.verdicts import checked
from dsd.curation.vlm_judge import ledger_name
from dsd.curation.writing import Judging
from dsd.errors import UserError
from dsd.io.files import atomic, write_json
from dsd.io.records import reason_class
from dsd.runs.identity import CONFIG, claim
from dsd.runs.manifest import read_manifest
from dsd.runs.run import Run, begin, take_lock
from dsd.runs.shards import Shard, pending_shards, read_failures, read_shards, read_stats, remove_leftovers

log = logging.getLogger(__name__)
LATER = ("selection", "max_references", "labels")  # settings that no verdict depends on


def run(cfg: DictConfig) -> None:
    """Judge what has no verdict yet, and select pairs."""
    if cfg.mode is Mode.agreement:
        return compare(cfg)
    prefilter, selection = bounds_of(cfg)  # a bound or a limit that cannot work is reported before the first call
    if cfg.vlm:
        instantiate(cfg.vlm.limits)
    stage = begin(cfg)
    if stage is None:
        return
    claim_verdicts(cfg)
    grids = read_grids(cfg.grids)
    pairs = PairWriter(
        grids, Path(cfg.verdicts_dir), CUTTERS[cfg.panels.name], selection, cfg.max_references, stage.config_hash
    )

    def make_writer() -> Callable[[Shard, Any], None]:
        inspection = inspection_of(cfg, prefilter, len(grids), stage)
        judging = None
        if inspection is not None:
            judging = partial(judge_grids, grids=grids, inspection=inspection, batch_size=cfg.batch_size)
        divided = len(grids), cfg.rows_per_shard, stage.worker, stage.workers
        todo = pending_shards(stage.output_dir, "pairs", *divided)
        return Judging(judging, pairs, cfg.skip_unanswered, todo).write

    if stage.make_shards("pairs", len(grids), cfg.rows_per_shard, "grid", make_writer):
        finish(stage, cfg)


def bounds_of(cfg: DictConfig) -> tuple[Bounds, Selection]:
    """Read the bounds before and after the judge. UserError where they name a score that nobody gives."""
    judge: type[Judge] = target_class("judge", cfg.judge)
    free = [*QUALITIES, *filter(None, [OmegaConf.select(cfg, "features.name")])]
    free += score_names(cfg, [*free, *judge.scores])
    prefilter = Bounds(dict(cfg.prefilter.minimum), dict(cfg.prefilter.maximum))
    bounds = Bounds(dict(cfg.selection.minimum), dict(cfg.selection.maximum))
    selection = Selection(cfg.selection.require_same, bounds, instantiate(cfg.selection.exclude))
    check_scores("prefilter", prefilter, free, scores_elsewhere)
    check_scores("selection", bounds, [*free, *judge.scores], scores_elsewhere)
    selection.check_judge(judge)
    return prefilter, selection


def claim_verdicts(cfg: DictConfig) -> None:
    """Bind the folder of verdicts to the settings that verdicts depend on."""
    folder = Path(cfg.verdicts_dir)
    try:
        claim(folder / "verdicts_config", cfg, without=LATER, work=folder / "verdicts")
    except UserError as error:
        raise UserError(str(error).replace("output_dir=", "verdicts_dir=")) from error


def inspection_of(cfg: DictConfig, prefilter: Bounds, num_grids: int, stage: Run) -> Inspection | None:
    """Load the judge, if this worker has shards without verdicts, and lock their folder."""
    folder = Path(cfg.verdicts_dir)
    todo = pending_shards(folder, "verdicts", num_grids, cfg.rows_per_shard, stage.worker, stage.workers)
    if not todo:
        return None
    if folder.resolve() != stage.output_dir.resolve():
        stage.locks.append(take_lock(folder, stage.stage, stage.worker))
        remove_leftovers(folder, todo)
    return Inspection(
        cut=CUTTERS[cfg.panels.name],
        judge=instantiate(cfg.judge),
        features=instantiate(cfg.features),
        geometries=load_geometries(cfg),
        prefilter=prefilter,
        describe_rejected=cfg.describe_rejected,
    )


def finish(stage: Run, cfg: DictConfig) -> None:
    """Write the report and the manifest. UserError where no pair was kept."""
    folder, source = stage.output_dir, read_manifest(cfg.grids, "data_gen")
    pairs, rejected = read_shards(folder, "pairs"), read_shards(folder, "rejected")
    verdicts = read_shards(cfg.verdicts_dir, "verdicts", columns=["defect"])
    refusals = read_failures(cfg.verdicts_dir, "verdicts")
    silent = by_kind(refusals)
    done = steps(source["counts"], read_failures(cfg.grids, "grids"), verdicts, refusals, rejected, len(pairs))
    seconds = seconds_of(cfg)
    paid = spent(cfg.vlm.cache, ledger_name(cfg.verdicts_dir), instantiate(cfg.vlm.limits)) if cfg.vlm else {}
    answered = models(cfg.vlm.cache, ledger_name(cfg.verdicts_dir)) if cfg.vlm else []
    took = per_thousand(len(pairs), {"data_gen": source.get("seconds", 0.0), "curation": seconds}, paid.get("cost", 0))
    with atomic(folder / "overview.png") as temporary:
        sheet_of(pairs, rejected).save(temporary, "PNG")
    write_report(folder / "report.html", done, took, paid, pairs, rejected)
    reasons = Counter(reason_class(reason) for reason in rejected["rejection"])
    stage.finish(
        {"judged": len(verdicts), "pairs": len(pairs), "rejected": len(rejected), **silent},
        said(pairs, rejected, reasons, silent) + (f", answered by {', '.join(answered)}" if answered else ""),
        folder / "overview.png",
        grids_config_hash=source["config_hash"],
        teacher=source.get("teacher"),
        reasons=dict(reasons),
        steps=[{**vars(step), "share": round(step.share, 4)} for step in done],
        per_thousand_kept=took,
        spent=paid,
        answered_by=answered,
        seconds=seconds,
    )
    if not len(pairs):
        raise UserError(f"{folder}: no pair was kept; see {folder / 'report.html'}, and loosen selection")


def seconds_of(cfg: DictConfig) -> float:
    """Sum the time of all workers for verdicts and pairs."""
    folders = {"verdicts": cfg.verdicts_dir, "rejected": cfg.output_dir, "pairs": cfg.output_dir}
    seconds: float = round(sum(read_stats(folder, name)["seconds"] for name, folder in folders.items()), 1)
    return seconds


def said(pairs: Dataset, rejected: Dataset, reasons: Counter[str], silent: Mapping[str, int]) -> str:
    """Sum a run up in one line; `silent` counts pairs without a verdict."""
    num = len(pairs) + len(rejected)
    why = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common()) or "none rejected"
    return (
        f"kept {len(pairs)} of {num} pairs ({100 * len(pairs) / max(1, num):.0f} %; {why}; "
        f"{', '.join(f'{n} {kind}' for kind, n in silent.items())}; report.html has examples)"
    )


def compare(cfg: DictConfig) -> None:
    """Compare the judge's verdicts with labels; write agreement.json and print a table.

    UserError where labels, verdicts and grids do not belong together.
    """
    if not (Path(cfg.verdicts_dir) / "verdicts_config" / CONFIG).is_file():
        raise UserError(f"verdicts_dir={cfg.verdicts_dir}: no verdicts of dsd-curate here; run it first")
    labels, grids = (
        read_labels(cfg.labels, read_manifest(cfg.grids, "data_gen").get("config_hash")),
        read_grids(cfg.grids),
    )
    check_labels(labels, grids, cfg.labels)
    claim_verdicts(cfg)  # they are of these grids and this judge
    verdicts = checked(read_shards(cfg.verdicts_dir, "verdicts"), f"{cfg.verdicts_dir}/verdicts")
    swapped, unanswered = judged_swapped(list(labels), grids, CUTTERS[cfg.panels.name], instantiate(cfg.judge))
    found = {**agreement(labels, map(vars, verdicts), swapped), "unanswered_swapped": unanswered}
    file = Path(cfg.output_dir) / "agreement.json"
    write_json(file, found)
    for row in table(found):
        print(f"{row[0]:32}" + "".join(f"{cell:24}" for cell in row[1:]))
    log.info("curation: %d labelled pairs compared with the judge's verdicts: %s", found["compared"], file)
