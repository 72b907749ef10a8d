"""`dsd-evaluate`: finished folders of the other stages -> summary.json, table.md, measures.png, report.html."""

import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf

from dsd.errors import UserError
from dsd.evaluate import table
from dsd.evaluate.inputs import Inputs, open_inputs
from dsd.evaluate.judged import count_reasons, filters, join, measure_curation, pair_key, reason_class
from dsd.evaluate.measures import Scored, arm_of, chance, measure_arms, same_jobs, score, truth_of
from dsd.evaluate.plots import measures_figure
from dsd.evaluate.recogniser import Reading, Recogniser, read_all
from dsd.evaluate.report import without_images, write_report
from dsd.evaluate.sheets import Sheet, measure_teacher, read_sheets
from dsd.files import atomic, write_json
from dsd.runs.command import claim, stage
from dsd.runs.manifest import MANIFEST, is_finished, read_manifest, write_manifest
from dsd.toybox.world import SUBJECT

log = logging.getLogger(__name__)


def open_dict() -> Any:
    """A mapping that takes any key from the command line, where a config elsewhere refuses unknown ones."""
    return OmegaConf.create({}, flags={"struct": False})


@dataclass
class EvaluateConfig:
    """configs/evaluate.yaml."""

    output_dir: str = MISSING
    experiment: str | None = None
    grids: str | None = None
    curated: str | None = None
    adapter: str | None = None
    results: dict[str, str | None] = field(default_factory=open_dict)  # folder by run: "student", or "student/0", ...
    baseline: str | None = None  # the arm that every other is compared with
    seed: int = 0
    num_resamples: int = MISSING
    batch_size: int = MISSING
    device: str = "auto"
    recogniser: Any = MISSING  # -> evaluate.recogniser.Recogniser


IGNORED = ("experiment", "batch_size")


@stage("evaluate", EvaluateConfig)
def main(cfg: DictConfig) -> None:
    for name, least in (("num_resamples", 100), ("batch_size", 1)):
        if cfg[name] < least:
            raise UserError(f"{name}={cfg[name]}: at least {least} is needed")
    arms = dict.fromkeys(map(arm_of, cfg.results))
    if cfg.baseline is not None and cfg.baseline not in arms:
        raise UserError(f"baseline={cfg.baseline}: not an arm of results; choose one of {', '.join(arms)}")
    # before the folder is claimed, so that a misspelt input does not bind it
    inputs = open_inputs(cfg.grids, cfg.curated, cfg.adapter, cfg.results)
    output_dir, began = Path(cfg.output_dir), time.monotonic()
    config_hash = claim(output_dir, cfg, IGNORED)
    report, paths = output_dir / "report.html", [output_dir / name for name in OUTPUTS]
    if is_finished(output_dir, "evaluate"):
        if read_manifest(output_dir, "evaluate").get("inputs") == inputs.fingerprints:
            log.info("evaluate: done already, in %s; look at %s", output_dir, report)
            return
        log.info("evaluate: the inputs have changed since; evaluating again")
        (output_dir / MANIFEST).unlink()

    recogniser: Recogniser = instantiate(cfg.recogniser)
    sheets = read_sheets(inputs.grids, recogniser, cfg.batch_size) if inputs.grids is not None else {}
    scored, recognised = score_results(inputs.results, recogniser, cfg.batch_size)
    if not same_jobs(scored.values()):
        log.warning("evaluate: the results were not asked the same prompts for the same references; compare with care")
    summary: dict[str, Any] = {"config_hash": config_hash, "inputs": inputs.fingerprints, **inputs.costs}
    if recognised:
        recognised["measured"] = dict(recogniser.measured)
    summary |= measure(inputs, sheets, scored, cfg.num_resamples, cfg.seed, cfg.baseline) | {"recogniser": recognised}

    write_json(output_dir / "summary.json", summary)
    with atomic(output_dir / "table.md") as temporary:
        temporary.write_text("\n\n".join(map(table.markdown, table.tables(summary))) + "\n", encoding="utf-8")
    with atomic(output_dir / "measures.png") as temporary:
        measures_figure(summary).savefig(temporary, dpi=160, facecolor="white")
    write_report(report, summary, inputs, sheets, scored)
    counts = {"results": sum(map(len, scored.values())), "grids": len(sheets)}
    seconds = round(time.monotonic() - began, 1)
    means = {arm: {k: row[k]["value"] for k in ("CP", "PF", "CPxPF")} for arm, row in summary["arms"].items()}
    write_manifest(
        output_dir, "evaluate", counts, paths,
        config_hash=config_hash, inputs=inputs.fingerprints, arms=means, seconds=seconds,
    )  # fmt: skip
    print("\n\n".join(map(table.plain, table.tables(summary))))
    log.info("evaluate: %d pictures of %d runs; look at %s", counts["results"], len(scored), report)


OUTPUTS = ("summary.json", "table.md", "measures.png", "report.html")


def score_results(
    results: dict[str, Dataset], recogniser: Recogniser, batch_size: int
) -> tuple[dict[str, list[Scored]], dict[str, Any]]:
    """Results by run -> their scores by run, and how the recogniser did on the references whose truth is known."""
    known: dict[str, tuple[Reading, str]] = {}  # by reference: what the recogniser reads on it, and its truth
    scored = {}
    for run, rows in results.items():
        units = [hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()[:16] for image in column(rows, "reference")]
        fresh = {unit: i for i, unit in enumerate(units) if unit not in known}
        references = (rows[i]["reference"] for i in fresh.values())
        readings = read_all(recogniser, references, batch_size)
        known |= {unit: (reading, rows[i]["truth"]) for (unit, i), reading in zip(fresh.items(), readings)}
        meta = rows.select_columns(["truth", "prompt"])
        scored[run] = [
            Scored(unit, row["prompt"], score(reading, truth_of(row["truth"], known[unit][0]), row["prompt"]))
            for unit, row, reading in zip(units, meta, read_all(recogniser, column(rows, "image"), batch_size))
        ]
    return scored, accuracy_on_references(list(known.values()))


def column(rows: Dataset, name: str) -> Iterator[Any]:
    """One column, decoded as it is walked."""
    return (row[name] for row in rows.select_columns([name]))


def accuracy_on_references(known: list[tuple[Reading, str]]) -> dict[str, Any]:
    """Share of references whose attribute is read as it is, by attribute of the subject; {} where no truth is known."""
    pairs = [(reading, truth_of(truth, reading)) for reading, truth in known if truth]
    if not pairs:
        return {}
    right = {name: float(np.mean([reading[name] == truth[name] for reading, truth in pairs])) for name in SUBJECT}
    return {"num_references": len(pairs), "accuracy": round(float(np.mean(list(right.values()))), 4), "accuracy_of": {
        name: round(value, 4) for name, value in right.items()
    }}  # fmt: skip


def measure(
    inputs: Inputs,
    sheets: dict[int, Sheet],
    scored: dict[str, list[Scored]],
    num_resamples: int,
    seed: int,
    baseline: str | None = None,
) -> dict[str, Any]:
    """All numbers of summary.json; what was not given is null. Each part has random numbers of its own."""
    rng = [np.random.default_rng((seed, part)) for part in range(3)]
    arms, comparisons = measure_arms(scored, num_resamples, rng[0], baseline)
    teacher = measure_teacher(list(sheets.values()), num_resamples, rng[1]) if sheets else None
    return {
        "chance": chance(),
        "arms": arms,
        "comparisons": comparisons,
        "teacher": teacher,
        "curation": summarise_curation(inputs, sheets, num_resamples, rng[2]) if inputs.pairs is not None else None,
    }


def summarise_curation(
    inputs: Inputs, sheets: dict[int, Sheet], num_resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Yield and reasons, in directed pairs; accuracy where the grids were given."""
    assert inputs.pairs is not None
    assert inputs.rejected is not None
    assert inputs.verdicts is not None
    kept, rejected = len(inputs.pairs), len(inputs.rejected)
    accuracy = None
    if sheets:
        verdicts = inputs.verdicts.select_columns(["grid", "first", "second", "same", "scores", "defect"])
        rejected_rows = without_images(inputs.rejected)
        left_out = {pair_key(row) for row in rejected_rows if reason_class(row["rejection"]) == "evaluation subject"}
        kept_pairs = {pair_key(row) for row in without_images(inputs.pairs)}
        judged = join(verdicts, kept_pairs, left_out, sheets, filters(inputs.config("curated")))
        accuracy = measure_curation(judged, num_resamples, rng)
    return {
        "kept": kept,
        "rejected": rejected,
        "yield": round(kept / max(1, kept + rejected), 4),
        "reasons": count_reasons(inputs.rejected["rejection"]),
        "accuracy": accuracy,
    }


if __name__ == "__main__":
    main()
