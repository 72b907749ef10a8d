"""Judge the judge: its agreement with people, with other judges, with itself, and with itself in swapped order.

    dsd-evaluate mode=agreement agreement.ratings=data_human_rating agreement.judges='{qwen: outputs/report}'
    dsd-evaluate mode=agreement agreement.rankings=ConsistencyRank-Bench measure=similarity

Krippendorff's alpha at the interval level, as DreamBench++ computes it (arXiv 2406.16855, section 4): people with each
other over all groups; a judge with people as the mean over groups and repeats. Intervals resample subjects.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from dsd.errors import UserError
from dsd.evaluate import human, table
from dsd.evaluate.judged import announce, refuse_unanswered
from dsd.evaluate.replay import opened
from dsd.evaluate.settings import arm_of
from dsd.evaluate.stored import read_scored
from dsd.io.files import atomic, write_json
from dsd.io.inputs import read_json
from dsd.metrics.agreement import RANKINGS, alpha_samples, mean_of, ranking_agreement, table_of
from dsd.metrics.intervals import estimate, unit_weights
from dsd.metrics.measure import Drawing, Measure
from dsd.runs.identity import CONFIG, read_config
from dsd.runs.manifest import MANIFEST, read_manifest
from dsd.runs.progress import progress

log = logging.getLogger(__name__)
PEOPLE = "people"
BATCH = 16  # rankings that are scored at once
Row = dict[str, Any]  # who, rubric, method, alpha


def compare_raters(cfg: DictConfig) -> None:
    """Compare everybody who is named; write agreement.json and agreement.md, and print the tables."""
    about, judges = cfg.agreement, {name: folder for name, folder in cfg.agreement.judges.items() if folder}
    if about.ratings is None and about.rankings is None and not judges:
        raise UserError(
            "mode=agreement needs agreement.ratings=, agreement.rankings= or agreement.judges={name: FOLDER}"
        )
    raters = {PEOPLE: human.read_people(about.ratings)} if about.ratings is not None else {}
    raters |= {name: read_judge(name, folder) for name, folder in judges.items()}
    found: dict[str, Any] = {"alpha": compare_ratings(raters, cfg.num_resamples, cfg.seed), "rankings": {}}
    if about.rankings is not None:
        measures = {name: instantiate(measure) for name, measure in cfg.measure.items() if measure}
        found["rankings"] = compare_rankings(about.rankings, measures, cfg.num_resamples, cfg.seed)
    if not found["alpha"] and not found["rankings"]:
        raise UserError("mode=agreement: nobody rated what another one rated; are the jobs named as DreamBench++ does?")
    folder = Path(cfg.output_dir)
    write_json(folder / "agreement.json", found)
    tables = [rows for rows in (alpha_rows(found["alpha"]), ranking_rows(found["rankings"])) if len(rows) > 1]
    with atomic(folder / "agreement.md") as temporary:
        temporary.write_text("\n\n".join(map(table.markdown, tables)) + "\n", encoding="utf-8")
    print("\n\n".join(map(table.plain, tables)))
    log.info("evaluate: %d comparisons of raters: %s", sum(map(len, tables)) - len(tables), folder / "agreement.json")


def read_judge(name: str, folder: str) -> human.Raters:
    """Read the ratings of an evaluation, each repeat of its judges a rater; or those that DreamBench++ publishes."""
    if not (Path(folder) / MANIFEST).is_file():
        published = human.read_published_judge(folder)
        if not published:
            raise UserError(
                f"agreement.judges.{name}={folder}: neither a finished evaluation nor ratings of DreamBench++"
            )
        return published
    read_manifest(folder, "evaluate")
    summary, config = read_json(Path(folder) / "summary.json"), read_config(Path(folder) / CONFIG)
    assert isinstance(summary, dict)
    if not summary.get("judges"):
        raise UserError(f"agreement.judges.{name}={folder}: no judge was asked there; evaluate with measure=vlm")
    rows, found = read_scored(Path(folder)), human.Raters()
    for measure, described in summary["judges"].items():
        judge = opened(Path(folder), measure, config["measure"][measure], described["card"])
        for run, job, one in rows:
            for key in one.ratings.get(measure, ()):
                rating = judge.ratings.by_key.get(key)
                if rating is not None and rating.state == "answered":
                    scores = {human.item_name(job): float(rating.said[0])}
                    rater = f"{measure} {run.partition('/')[2]} {rating.repeat}"
                    human.add(found, rating.rubric, arm_of(run), rater, scores)
    return found


def compare_ratings(raters: Mapping[str, human.Raters], num_resamples: int, seed: int) -> list[Row]:
    """Compare each with itself (people's groups, a judge's repeats), and each two with each other."""
    rows: list[Row] = []
    for rubric in dict.fromkeys(rubric for one in raters.values() for rubric in one):
        shown = {name: pooled(one[rubric]) for name, one in raters.items() if rubric in one}
        for method in dict.fromkeys(method for methods in shown.values() for method in methods):
            who = {name: list(methods[method].values()) for name, methods in shown.items() if method in methods}
            sides: list[tuple[str, list[list[human.Scores]]]] = [
                (f"{name}, among themselves", [scores]) for name, scores in who.items() if len(scores) > 1
            ]
            for one, other in combinations(who, 2):
                sides.append((f"{one} and {other}", [[a, b] for a in who[one] for b in who[other]]))
            for said, tables in sides:
                number = alpha_over(tables, num_resamples, np.random.default_rng((seed, len(rows))))
                if number is not None:
                    rows.append({"raters": said, "rubric": rubric, "method": method, "alpha": number})
    return rows


def pooled(methods: Mapping[str, Mapping[str, human.Scores]]) -> dict[str, dict[str, human.Scores]]:
    """Add "all methods", where there are several: every rater's ratings of all of them."""
    found = {method: dict(raters) for method, raters in methods.items()}
    if len(methods) > 1:
        every: dict[str, human.Scores] = {}
        for method, raters in methods.items():
            for rater, scores in raters.items():
                every.setdefault(rater, {}).update({f"{method}:{item}": score for item, score in scores.items()})
        found["all methods"] = every
    return found


def alpha_over(
    tables: Sequence[Sequence[human.Scores]], num_resamples: int, rng: np.random.Generator
) -> dict[str, Any] | None:
    """Mean of alpha over tables of raters, all by the same draws of subjects; None where no item has two ratings."""
    made = [table_of(one) for one in tables]
    subjects = sorted({unit_of(item) for _, items in made for item in items})
    weights = unit_weights(rng, len(subjects), num_resamples)
    place = {subject: number for number, subject in enumerate(subjects)}
    shared = [int(((~np.isnan(ratings)).sum(axis=0) >= 2).sum()) for ratings, _ in made]
    if not any(shared):
        return None
    samples = [
        alpha_samples(ratings, np.array([place[unit_of(item)] for item in items]), weights, "interval")
        for ratings, items in made
    ]
    return {**estimate(np.mean(samples, axis=0), max(shared))}


def unit_of(item: str) -> str:
    """The subject of an item, whatever its method."""
    return human.subject_of(item.rpartition(":")[2])


def compare_rankings(folder: str, measures: Mapping[str, Measure], num_resamples: int, seed: int) -> dict[str, Any]:
    """Rank candidates by every number of every measure, and compare with people's rankings. Units are folders."""
    rankings = human.read_rankings(folder)
    announce(measures, sum(len(unread.row.comp_images) for unread in rankings))
    names = [n for measure in measures.values() for n in measure.scale.names if n not in measure.scale.products]
    lower = {name for measure in measures.values() for name in measure.scale.lower}
    agreed: dict[str, list[tuple[str, dict[str, float]]]] = {name: [] for name in names}
    with progress(len(rankings), "rankings", "ranking") as bar:
        for start in range(0, len(rankings), BATCH):
            some = [unread.read() for unread in rankings[start : start + BATCH]]
            scores = iter(scored_by(measures, [drawing for ranking in some for drawing in ranking.drawings]))
            for ranking in some:
                rows = [next(scores) for _ in ranking.drawings]
                for name in (name for name in names if all(name in row for row in rows)):
                    sign = -1 if name in lower else 1
                    one = ranking_agreement([sign * row[name] for row in rows], ranking.best_first)
                    agreed[name].append((ranking.unit, one))
            bar.update(len(some))
    refuse_unanswered(measures)
    return {name: rank_numbers(rows, len(rankings), num_resamples, seed) for name, rows in agreed.items()}


def scored_by(measures: Mapping[str, Measure], drawings: Sequence[Drawing]) -> list[dict[str, float]]:
    """Put the numbers of all measures of each picture together."""
    every = [measure(drawings) for measure in measures.values()]
    return [{name: number for row in rows for name, number in row.items()} for rows in zip(*every, strict=True)]


def rank_numbers(
    agreed: Sequence[tuple[str, dict[str, float]]], num_rankings: int, num_resamples: int, seed: int
) -> dict[str, Any]:
    """Mean agreement over rankings. Those of which a candidate has no score are left out, and counted."""
    units, rng = [unit for unit, _ in agreed], np.random.default_rng(seed)
    means = {key: mean_of([one[key] for _, one in agreed], units, num_resamples, rng) for key in RANKINGS}
    return {**means, "left_out": num_rankings - len(agreed)}


def alpha_rows(found: Sequence[Row]) -> table.Rows:
    """A row for each comparison of ratings."""
    header = ["Krippendorff's alpha of", "rubric", "method", "alpha", "rated by both"]
    cells = [[r["raters"], r["rubric"], r["method"], table.number(r["alpha"]), str(r["alpha"]["n"])] for r in found]
    return [header, *cells]


def ranking_rows(found: Mapping[str, Any]) -> table.Rows:
    """A row for each number that ranks candidates."""
    header = ["rankings by", *(name.replace("_", " ") for name in RANKINGS), "rankings", "left out"]
    cells = [
        [
            table.title(name),
            *(table.number(row[key]) for key in RANKINGS),
            str(row[RANKINGS[0]]["n"]),
            str(row["left_out"]),
        ]
        for name, row in found.items()
    ]
    return [header, *cells]
