"""Report what became of every grid and pair, with reasons, and what 1,000 kept pairs took: report.html."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from dsd.curation.judge import UNANSWERED
from dsd.io.pictures import contact_sheet, data_uri
from dsd.io.records import reason_class
from dsd.runs.html import write_page

TEMPLATE = Path(__file__).with_name("report.html.jinja")
EXAMPLES = 6  # of each reason
LARGEST = 192  # pixels


@dataclass(frozen=True)
class Step:
    """One step of curation: how many things it began with, how many were left, and why the others were not."""

    name: str
    begun: int
    left: int
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        return self.left / self.begun if self.begun else 0.0


def steps(
    drawn: Mapping[str, int],
    grid_failures: Sequence[Mapping[str, Any]],
    verdicts: Dataset,
    refusals: Sequence[Mapping[str, Any]],
    rejected: Dataset,
    num_kept: int,
) -> list[Step]:
    """Count the steps from prompts to kept pairs. Steps count unordered pairs.

    `drawn` are the counts of data_gen's manifest; `rejected` and `num_kept` have both directions.
    """
    pairs = len(verdicts) + len(refusals)
    defects = Counter(reason_class(d) for d in verdicts["defect"] if d)
    asked = pairs - sum(defects.values())
    unlike = Counter(reason_class(r) for r in rejected["rejection"])
    unlike.subtract({reason: 2 * number for reason, number in defects.items()})
    return [
        Step("prompts → grids", drawn["grids"] + len(grid_failures), drawn["grids"], count(grid_failures)),
        Step("pairs of panels → shown to the judge", pairs, asked, dict(defects.most_common())),
        Step("shown → answered", asked, asked - len(refusals), count(refusals)),
        Step(
            "answered → kept", asked - len(refusals), num_kept // 2,
            {reason: number // 2 for reason, number in unlike.most_common() if number > 0},
        ),
    ]  # fmt: skip


def by_kind(failures: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count pairs without a verdict: refused and failed ones for good, unanswered ones for now."""
    kinds = [reason_class(failure["reason"]) for failure in failures]
    found = {kind: kinds.count(kind) for kind in ("failed", UNANSWERED)}
    return {"refused": len(kinds) - sum(found.values()), **found}


def count(failures: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count failures by the class of their reason."""
    return dict(Counter(reason_class(f["reason"]) for f in failures).most_common())


def per_thousand(num_kept: int, seconds: Mapping[str, float], cost: float) -> dict[str, float]:
    """Compute seconds by stage, and money, for 1,000 kept pairs (both directions count)."""
    if not num_kept:
        return {}
    found = {f"{stage}_seconds": round(1000 * s / num_kept, 1) for stage, s in seconds.items()}
    return {**found, "cost": round(1000 * cost / num_kept, 4)}


def write_report(
    path: Path, done: Sequence[Step], took: Mapping[str, float], spent: Mapping[str, float], pairs: Dataset,
    rejected: Dataset,
) -> None:  # fmt: skip
    """Write the page."""
    examples = [("kept", cards(pairs, range(len(pairs)))), *by_reason(rejected)]
    write_page(path, TEMPLATE, steps=done, took=took, spent=spent, examples=examples)


def by_reason(rejected: Dataset) -> list[tuple[str, list[dict[str, str]]]]:
    """Choose examples of each reason, the most frequent reason first."""
    rows: dict[str, list[int]] = {}
    for row, reason in enumerate(rejected["rejection"]):
        rows.setdefault(reason_class(reason), []).append(row)
    ordered = sorted(rows.items(), key=lambda item: -len(item[1]))
    return [(reason, cards(rejected, numbers)) for reason, numbers in ordered]


def cards(rows: Dataset, numbers: Sequence[int]) -> list[dict[str, str]]:
    """Choose examples evenly, each with its pictures and what was said of it."""
    step = max(1, len(numbers) // EXAMPLES)
    return [
        {
            "reference": data_uri(row["conditioning"], LARGEST), "target": data_uri(row["image"], LARGEST),
            "said": row["rejection"] or row["verdict_reason"], "caption": row["caption"], "grid": str(row["grid"]),
        }
        for row in rows.select(list(numbers)[::step][:EXAMPLES])
    ]  # fmt: skip


def sheet_of(pairs: Dataset, rejected: Dataset, num: int = 6) -> Image.Image:
    """Make a contact sheet of kept pairs and, below, rejected ones: reference, target and what was said of them."""
    images, labels = [], []
    for rows in (pairs, rejected):
        for row in rows.select(range(0, min(len(rows), 4 * num), 4)):
            images += [row["conditioning"], row["image"]]
            labels += [f"grid {row['grid']}: {'kept' if row['kept'] else row['rejection']}", row["caption"]]
    return contact_sheet(images, labels, columns=num, cell=160)
