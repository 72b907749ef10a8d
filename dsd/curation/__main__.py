"""`dsd-curate`: grids -> judged pairs. Reads a data_gen folder; writes verdicts, `pairs/` and `rejected/`."""

import functools
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig
from tqdm import tqdm

from dsd.chat.service import Service, spent
from dsd.curation.agreement import agreement, read_labels, table
from dsd.curation.judging import Looking, judge_grids, judged_swapped
from dsd.curation.pairs import directed_pairs
from dsd.curation.reference_sets import reference_sets
from dsd.curation.report import per_thousand, reason_class, steps, write_report
from dsd.curation.seams import Cutter
from dsd.curation.selection import Selection
from dsd.errors import UserError
from dsd.files import atomic, write_json
from dsd.models.settings import ModelConfig
from dsd.pictures import contact_sheet
from dsd.records import Pair, ReferenceSet, Verdict, features
from dsd.runs.command import claim, stage
from dsd.runs.manifest import is_finished, read_manifest, write_manifest
from dsd.runs.shards import Shard, pending_shards, read_failures, read_shard, read_shards, read_stats, write_shard

log = logging.getLogger(__name__)


class Mode(Enum):
    """Make pairs, or compare the judge's verdicts with people's labels."""

    curate = "curate"
    agreement = "agreement"


@dataclass
class Prefilter:
    """By score: brightness, contrast, sharpness (curation.quality), and that of features=, such as {dinov2: 0.5}."""

    minimum: dict[str, float] = field(default_factory=dict)
    maximum: dict[str, float] = field(default_factory=dict)


@dataclass
class CurationConfig:
    """configs/curation.yaml."""

    output_dir: str = MISSING
    experiment: str | None = None
    mode: Mode = Mode.curate
    labels: str | None = None  # for mode=agreement: what people say of pairs, see curation.agreement
    grids: str = MISSING  # output_dir of dsd-data-gen
    verdicts_dir: str = MISSING  # where verdicts are kept; share it between runs that differ in selection alone
    rows_per_shard: int = MISSING  # grids a shard of verdicts: the unit of resuming
    batch_size: int = MISSING  # grids judged at once
    shard: int = 0
    num_shards: int = 1
    device: str = "auto"
    panels: Any = MISSING  # -> curation.seams.Cutter
    features: Any = None  # -> curation.features.Features: a score of its own for every pair
    prefilter: Prefilter = field(
        default_factory=Prefilter
    )  # bounds on what costs nothing; outside them no judge is asked
    judge: Any = MISSING  # -> vlm.Judge
    describe_rejected: bool = (
        True  # captions and instructions for rejected pairs, too; false saves a paid judge's calls
    )
    vlm: Any = None  # -> chat.service.Service, for the judges that ask one
    model: ModelConfig = MISSING  # for vlm=local: its dtype
    cache_dir: str = MISSING
    selection: Any = MISSING  # -> curation.selection.Selection
    max_references: int = MISSING  # above 1: sets of as many references for one target as well, in sets/


IGNORED = (  # when and where, not what
    "experiment", "mode", "labels", "verdicts_dir", "batch_size", "shard", "num_shards", "cache_dir", "vlm.cache",
    "vlm.limits", "judge.service.cache", "judge.service.limits",
)  # fmt: skip
LATER = ("selection", "max_references", "verdicts_dir")  # what no verdict depends on


@stage("curation", CurationConfig)
def main(cfg: DictConfig) -> None:
    for name in ("rows_per_shard", "batch_size", "max_references"):
        if cfg[name] < 1:
            raise UserError(f"{name}={cfg[name]}: at least 1 is needed")
    if cfg.mode is Mode.agreement:
        return compare(cfg)
    source = read_manifest(cfg.grids, "data_gen")
    output_dir = Path(cfg.output_dir)
    config_hash = claim(output_dir, cfg, IGNORED)
    verdicts_dir = Path(cfg.verdicts_dir)
    claim(verdicts_dir / "verdicts_config", cfg, (*IGNORED, *LATER), verdicts_dir / "verdicts")
    if is_finished(output_dir, "curation"):
        log.info("curation: done already, in %s", output_dir)
        return
    selection, cut = instantiate(cfg.selection, _convert_="all"), instantiate(cfg.panels)
    grids = read_shards(cfg.grids, "grids")

    state = PartialState()
    worker, workers = cfg.shard * state.num_processes + state.process_index, cfg.num_shards * state.num_processes
    judge_pending(cfg, grids, worker, workers, state.is_local_main_process)
    todo = pending_shards(output_dir, "pairs", len(grids), cfg.rows_per_shard, worker, workers)
    for shard in tqdm(todo, desc="pairs", unit="shard", mininterval=1, disable=not state.is_local_main_process):
        rows = functools.partial(pairs_of, shard, grids, verdicts_dir, cut, selection, config_hash)
        write_shard(beside(shard, "rejected"), (pair for pair in rows() if not pair.kept), features(Pair))
        if cfg.max_references > 1:
            kept = (pair for pair in rows() if pair.kept)
            write_shard(beside(shard, "sets"), reference_sets(kept, cfg.max_references), features(ReferenceSet))
        write_shard(
            shard, (pair for pair in rows() if pair.kept), features(Pair)
        )  # last, as it says that all are there
    state.wait_for_everyone()
    if not state.is_main_process or pending_shards(output_dir, "pairs", len(grids), cfg.rows_per_shard):
        log.info("curation: shard %d of %d judged, others are still to come", cfg.shard, cfg.num_shards)
        return

    pairs, rejected = read_shards(output_dir, "pairs"), read_shards(output_dir, "rejected")
    reasons = Counter(reason_class(reason) for reason in rejected["rejection"])
    refusals = read_failures(cfg.verdicts_dir, "verdicts")
    refused, verdicts = len(refusals), read_shards(verdicts_dir, "verdicts", columns=["defect"])
    folders = {"verdicts": verdicts_dir, "rejected": output_dir, "pairs": output_dir}
    seconds = round(sum(read_stats(folder, name)["seconds"] for name, folder in folders.items()), 1)
    done = steps(source["counts"], read_failures(cfg.grids, "grids"), verdicts, refusals, rejected, len(pairs))
    paid = spent(cfg.vlm.cache, purpose(cfg), instantiate(cfg.vlm.limits)) if cfg.vlm else {}
    took = per_thousand(
        len(pairs), {"data_gen": source.get("seconds", 0.0), "curation": seconds}, paid.get("cost", 0.0)
    )
    with atomic(output_dir / "overview.png") as temporary:
        overview(pairs, rejected).save(temporary, "PNG")
    write_report(output_dir / "report.html", done, took, paid, pairs, rejected)
    counts = {
        "judged": len(verdicts),
        "pairs": len(pairs),
        "rejected": len(rejected),
        "refused": refused,
    }
    write_manifest(
        output_dir,
        "curation",
        counts,
        config_hash=config_hash,
        grids_config_hash=source["config_hash"],
        reasons=dict(reasons),
        steps=[{**vars(step), "share": round(step.share, 4)} for step in done],
        per_thousand_kept=took,
        spent=paid,
        seconds=seconds,
    )
    share = len(pairs) / max(1, len(pairs) + len(rejected))
    log.info(
        "curation: kept %d of %d pairs (%.0f %%; %s; %d refused) in %s; look at %s",
        len(pairs), len(pairs) + len(rejected), 100 * share,
        ", ".join(f"{n} {reason}" for reason, n in reasons.most_common()) or "none rejected", refused,
        output_dir, output_dir / "report.html",
    )  # fmt: skip
    if not len(pairs):
        raise UserError(f"{output_dir}: no pair was kept; see {output_dir / 'rejected'}, and loosen selection")


def compare(cfg: DictConfig) -> None:
    """The judge's verdicts against labels; writes agreement.json and prints a table."""
    if cfg.labels is None:
        raise UserError("mode=agreement needs labels=path/to/labels.jsonl; dsd/curation/label.py writes one")
    labels, verdicts = read_labels(cfg.labels), read_shards(cfg.verdicts_dir, "verdicts")
    grids = read_shards(cfg.grids, "grids")
    swapped = judged_swapped(list(labels), grids, instantiate(cfg.panels), instantiate(cfg.judge))
    found = agreement(labels, verdicts, swapped)
    file = Path(cfg.output_dir) / "agreement.json"
    write_json(file, found)
    for row in table(found):
        print(f"{row[0]:32}" + "".join(f"{cell:24}" for cell in row[1:]))
    log.info("curation: %d labelled pairs compared with the judge's verdicts: %s", found["compared"], file)


def purpose(cfg: DictConfig) -> str:
    """By what the ledger knows the calls for these verdicts."""
    return f"curation {Path(cfg.verdicts_dir).resolve()}"


def judge_pending(cfg: DictConfig, grids: Dataset, worker: int, workers: int, show: bool) -> None:
    """Write the shards of verdicts that are not there yet."""
    todo = pending_shards(cfg.verdicts_dir, "verdicts", len(grids), cfg.rows_per_shard, worker, workers)
    if not todo:
        return
    look = Looking(
        cut=instantiate(cfg.panels),
        judge=instantiate(cfg.judge),
        features=instantiate(cfg.features) if cfg.features else None,
        prefilter=Selection(require_same=False, minimum=cfg.prefilter.minimum, maximum=cfg.prefilter.maximum),
        describe_rejected=cfg.describe_rejected,
    )
    num = sum(shard.stop - shard.start for shard in todo)
    if isinstance(service := getattr(look.judge, "service", None), Service):
        service.purpose = purpose(cfg)
    with tqdm(total=num, desc="verdicts", unit="grid", mininterval=1, disable=not show) as bar:
        for shard in todo:
            write_shard(shard, judge_grids(shard, grids, look, cfg.batch_size, bar), features(Verdict))


def pairs_of(
    shard: Shard, grids: Dataset, verdicts_dir: Path, cut: Cutter, selection: Selection, config_hash: str
) -> Iterator[Pair]:
    """The directed pairs of grids shard.start..stop-1, kept or not."""
    verdicts: defaultdict[int, list[Verdict]] = defaultdict(list)
    for row in read_shard(verdicts_dir / "verdicts" / beside(shard, "verdicts").path.name):
        verdicts[row["grid"]].append(Verdict(**row))
    rows = grids.select(range(shard.start, min(shard.stop, len(grids))))
    return directed_pairs(rows, verdicts, cut, selection, config_hash)


def beside(shard: Shard, name: str) -> Shard:
    """The same part of the work, of another kind of record."""
    return replace(shard, path=shard.path.parents[1] / name / shard.path.name.replace("pairs", name, 1))


def overview(pairs: Dataset, rejected: Dataset, num: int = 6) -> Any:
    """Kept pairs above, rejected ones below: reference, target, and what was said of them."""
    images, labels = [], []
    for rows in (pairs, rejected):
        for row in rows.select(range(0, min(len(rows), 4 * num), 4)):
            images += [row["conditioning"], row["image"]]
            labels += [f"grid {row['grid']}: {'kept' if row['kept'] else row['rejection']}", row["caption"]]
    return contact_sheet(images, labels, columns=2 * num // 2, cell=160)


if __name__ == "__main__":
    main()
