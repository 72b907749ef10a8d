"""What an evaluation says of judges that are asked: their cards, their calls in advance, what they left out."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dsd.errors import UserError
from dsd.evaluate.scoring import Measures, Scored
from dsd.evaluate.settings import arm_of
from dsd.metrics.judges.card import read_card
from dsd.metrics.judges.control import read_control
from dsd.metrics.judges.measure import VLMMeasure
from dsd.metrics.judges.ratings import STATES

log = logging.getLogger(__name__)
Rows = list[list[str]]


def cards_of(cfg: DictConfig) -> dict[str, dict[str, str]]:
    """Name the judge cards that the measures use, as inputs of the evaluation. Checks the control answers as well."""
    found = {}
    for name, measure in cfg.measure.items():
        if measure and "card" in measure:
            found[f"judge.{name}"] = {"card": read_card(OmegaConf.to_container(measure.card, resolve=True)).id}
            if measure.get("control"):
                read_control(measure.control)
    return found


def announce(measures: Measures, num_pictures: int) -> None:
    """Say of every judge how many calls it makes at most, and what they may cost."""
    for name, measure in measures.items():
        if isinstance(measure, VLMMeasure):
            log.info("evaluate: measure %s: %s", name, measure.plan(num_pictures))


def refuse_unanswered(measures: Measures) -> None:
    """UserError where questions have no answer for now; the next run asks them again, and only them."""
    for name, measure in measures.items():
        if isinstance(measure, VLMMeasure) and measure.unanswered:
            raise UserError(
                f"measure {name}: {len(measure.unanswered)} questions have no answer, the first because: "
                f"{measure.unanswered[0]}; run the same command again to ask for them"
            )


def describe_judges(measures: Measures, scored: Mapping[str, Sequence[Scored]]) -> dict[str, Any]:
    """Describe every judge: its card, which models answered, and how many ratings it gave, refused or failed."""
    found: dict[str, Any] = {}
    for name, measure in measures.items():
        if isinstance(measure, VLMMeasure):
            keys = {key for jobs in scored.values() for job in jobs for key in job.ratings.get(name, ())}
            ratings = [rating for key, rating in measure.ratings.by_key.items() if key in keys]
            states = Counter(rating.state for rating in ratings)
            found[name] = {
                "card": measure.card.id,
                "model": measure.card.model,
                "revision": measure.card.revision,
                "repeats": measure.card.repeats,
                "answered_by": sorted({rating.model for rating in ratings}),
                "ratings": {state: states[state] for state in STATES},
            }
    return found


def answered_by(summary: Mapping[str, Any]) -> str:
    """Name the models that answered, for the closing line; "" where no judge was asked."""
    models = sorted({model for judge in summary["judges"].values() for model in judge["answered_by"]})
    return f", judged by {', '.join(models)}" if models else ""


def note_missing(
    arms: Mapping[str, dict[str, Any]], scored: Mapping[str, Sequence[Scored]], measures: Measures
) -> None:
    """Put the share of pictures that a measure could not score beside each of its numbers; of a judge always.

    The share is of the pictures that the measure was meant for: those with a number or a reason why there is none.
    """
    for measure in measures.values():
        for arm, row in arms.items():
            jobs = [job for run, of_run in scored.items() if arm_of(run) == arm for job in of_run]
            for name in measure.scale.names:
                parts = measure.scale.products.get(name, (name,))
                kinds = Counter(kind for job in jobs if (kind := next(filter(None, map(job.missing.get, parts)), "")))
                if kinds or isinstance(measure, VLMMeasure):
                    meant = sum(any(part in job.scores or part in job.missing for part in parts) for job in jobs)
                    row[name]["missing"] = {**dict(sorted(kinds.items())), "of": meant}


def missing_of(estimate: Mapping[str, Any]) -> str:
    """Write what a measure could not score: ", 3.7 % missing (1 refused, 1 failed)"; "" where it scored everything."""
    counts = {kind: num for kind, num in (estimate.get("missing") or {}).items() if kind != "of"}
    if not counts:
        return ""
    share = 100 * sum(counts.values()) / estimate["missing"]["of"]
    return f", {share:.1f} % missing ({', '.join(f'{num} {kind}' for kind, num in counts.items())})"


def with_cards(tables: dict[str, Rows], summary: Mapping[str, Any]) -> dict[str, Rows]:
    """Print the id of the judge card in the header of every table of its numbers."""
    for name, judge in (summary.get("judges") or {}).items():
        mine = [table for table in tables if table.split(" ", 1)[-1] == name]
        if summary["compared"] in summary["measures"][name]["names"] and "comparisons" in tables:
            mine.append("comparisons")
        for table in mine:
            tables[table][0][0] += f" (judge card {judge['card']})"
    return tables
