"""Evaluate: measure the results, the grids and the curation, and write tables, a plot and a report."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from dsd.evaluate import table
from dsd.evaluate.consistency import ScoredGrid, check_grids, score_grids
from dsd.evaluate.control import write_control
from dsd.evaluate.inputs import Inputs, open_inputs
from dsd.evaluate.judged import announce, answered_by, cards_of, refuse_unanswered
from dsd.evaluate.outputs import write_outputs
from dsd.evaluate.published import read_published
from dsd.evaluate.raters import compare_raters
from dsd.evaluate.replay import replay
from dsd.evaluate.scoring import Measures, Scored, aligned, check_measures, same_jobs, score_results
from dsd.evaluate.settings import Mode
from dsd.evaluate.stored import same_of, write_same, write_scored
from dsd.evaluate.summary import left_out, summarise
from dsd.evaluate.teachers import measure_one, open_teacher, teachers_rows
from dsd.io.files import atomic, write_json
from dsd.metrics.measure import GridMeasure
from dsd.metrics.similarity import Similarity
from dsd.pipeline.jobs import JobSource
from dsd.runs.identity import claim
from dsd.runs.manifest import MANIFEST, is_finished, read_manifest
from dsd.runs.run import Run, begin

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Measure everything that the config names, once."""
    if cfg.mode is not Mode.evaluate:
        return write_control(cfg) if cfg.mode is Mode.control else compare_raters(cfg)
    if cfg.replay is not None:
        return replay(cfg)
    if any(cfg.teachers.values()):
        return compare(cfg)
    jobs: JobSource | None = instantiate(cfg.jobs) if cfg.jobs else None
    inputs = open_inputs(cfg.grids, cfg.curated, cfg.adapter, cfg.results, jobs)
    published = read_published(cfg.published) if cfg.published else None
    warn_of_others(inputs)
    content: dict[str, Any] = {**inputs.fingerprints, **cards_of(cfg)}
    if jobs is not None:
        content["jobs"] = jobs.fingerprint
    began = begin_evaluation(cfg, content)
    if began is None:
        return
    measures: Measures = {name: instantiate(measure) for name, measure in cfg.measure.items() if measure}
    check_measures(measures, inputs.results)
    announce(measures, sum(map(len, inputs.results.values())))
    scored = aligned(score_results(inputs.results, measures, cfg.batch_size), inputs.foreign)
    refuse_unanswered(measures)
    if not same_jobs(scored.values()):
        log.warning(
            "evaluate: the results were not asked the same prompts for the same references; comparisons use the jobs "
            "that both arms have"
        )
    grid_measure = grid_measure_of(measures, inputs)
    grids = read_grids(inputs, grid_measure, cfg.batch_size)
    numbers = summarise(
        inputs, measures, scored, grid_measure, grids, cfg.num_resamples, cfg.seed, cfg.baseline, published
    )
    warn_of_ties(numbers["comparisons"])
    summary = {"config_hash": began.config_hash, "inputs": content, **inputs.costs, **numbers}
    same = same_of(grids)
    write_scored(began.output_dir, inputs.results, scored)
    write_same(began.output_dir, same)
    files = write_outputs(began.output_dir, summary, inputs, same, scored)
    finish(began, summary, scored, len(inputs.grids or ()), files)


def warn_of_others(inputs: Inputs) -> None:
    """Warn of pictures that were left out because they belong to no job."""
    for run in inputs.runs:
        if number := run.manifest["counts"].get("of_no_job"):
            log.warning("evaluate: %s: %d pictures belong to no job and are left out", run.folder, number)


def warn_of_ties(comparisons: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn of comparisons whose interval does not tell the arms apart."""
    for name, found in comparisons.items():
        if not found["apart"]:
            why = f"{found['subjects']} subjects cannot tell them apart" if found["n"] else "they have no job in common"
            log.warning("evaluate: %s: %s", table.title(name), why)


def compare(cfg: DictConfig) -> None:
    """Compare teachers: write summary.json and table.md, and print the table."""
    teachers = {name: open_teacher(name, folder) for name, folder in cfg.teachers.items() if folder}
    content = {f"{name}.{key}": value for name, one in teachers.items() for key, value in one.fingerprints.items()}
    began = begin_evaluation(cfg, content)
    if began is None:
        return
    measures: Measures = {name: instantiate(measure) for name, measure in cfg.measure.items() if measure}
    grid_measure = grid_measure_of(measures, *teachers.values())
    scale = grid_measure.scale if grid_measure is not None else None
    features = [measure.features for measure in measures.values() if isinstance(measure, Similarity)]
    found = {
        name: measure_one(
            one, read_grids(one, grid_measure, cfg.batch_size), scale, features, cfg.batch_size, cfg.num_resamples,
            cfg.seed,
        )
        for name, one in teachers.items()
    }  # fmt: skip
    rows = teachers_rows(found)
    write_json(began.output_dir / "summary.json", {"config_hash": began.config_hash, "teachers": found})
    with atomic(began.output_dir / "table.md") as temporary:
        temporary.write_text(table.markdown(rows) + "\n", encoding="utf-8")
    print(table.plain(rows))
    files = [began.output_dir / name for name in ("summary.json", "table.md")]
    began.finish({"teachers": len(found)}, f"{len(found)} teachers", files[-1], files, inputs=content)


def begin_evaluation(cfg: DictConfig, content: Mapping[str, Any]) -> Run | None:
    """Claim the output folder; None where these very inputs have been evaluated there.

    The inputs are known by their `content`. Where it has changed since, they are evaluated again.
    """
    output_dir, given = Path(cfg.output_dir), dict.fromkeys(content, "given")
    claim(output_dir, cfg, given)
    if is_finished(output_dir, "evaluate") and read_manifest(output_dir, "evaluate").get("inputs") != content:
        log.info("evaluate: the inputs have changed since; evaluating again")
        (output_dir / MANIFEST).unlink()
    return begin(cfg, given)


def grid_measure_of(measures: Measures, *inputs: Inputs) -> GridMeasure | None:
    """Choose the first measure that can score grids; None, said in one line, where grids were given in vain."""
    found = next((measure.grids for measure in measures.values() if measure.grids is not None), None)
    if found is None and any(one.grids is not None for one in inputs):
        log.warning("evaluate: %s", left_out(measures))
    return found


def read_grids(inputs: Inputs, grid_measure: GridMeasure | None, batch_size: int) -> dict[int, ScoredGrid]:
    """Score the grids by index; none where they or a measure of them were not given."""
    if inputs.grids is None or grid_measure is None:
        return {}
    check_grids(grid_measure, inputs.grids)
    return score_grids(inputs.grids, grid_measure, batch_size)


def finish(
    run: Run, summary: Mapping[str, Any], scored: Mapping[str, Sequence[Scored]], num_grids: int, files: list[Path]
) -> None:
    """Write the manifest, with the value of every arm's main numbers."""
    names = [name for scale in summary["measures"].values() for name in scale["plotted"] or scale["names"]]
    counts = {"results": sum(map(len, scored.values())), "grids": num_grids}
    run.finish(
        counts,
        f"{counts['results']} pictures of {len(scored)} runs" + answered_by(summary),
        run.output_dir / "report.html",
        files,
        inputs=summary["inputs"],
        arms={arm: {name: row[name]["value"] for name in names} for arm, row in summary["arms"].items()},
    )
