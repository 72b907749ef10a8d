"""What became of everything, in order, with every reason, and what 1,000 kept pairs took: report.html."""

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from dsd.files import atomic
from dsd.pictures import png

EXAMPLES = 6  # of each reason
LARGEST = 192  # pixels


@dataclass(frozen=True)
class Step:
    """What a step began with, what came through, and why the rest did not."""

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
    """`drawn` are the counts of data_gen's manifest; pairs are unordered, `rejected` and `num_kept` both directions."""
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


def reason_class(reason: str) -> str:
    """ "low confidence: 0.312, the bound is 0.5" -> "low confidence"."""
    return reason.split(":", 1)[0].strip()


def count(failures: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return dict(Counter(reason_class(f["reason"]) for f in failures).most_common())


def per_thousand(num_kept: int, seconds: Mapping[str, float], cost: float) -> dict[str, float]:
    """Seconds by stage, and money, for 1,000 kept pairs (both directions count)."""
    if not num_kept:
        return {}
    found = {f"{stage}_seconds": round(1000 * s / num_kept, 1) for stage, s in seconds.items()}
    return {**found, "cost": round(1000 * cost / num_kept, 4)}


def write_report(
    path: Path, done: Sequence[Step], took: Mapping[str, float], spent: Mapping[str, float], pairs: Dataset,
    rejected: Dataset,
) -> None:  # fmt: skip
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    html = environment.get_template("report.html.jinja").render(
        steps=done,
        took=took,
        spent=spent,
        examples=[("kept", cards(pairs, range(len(pairs)))), *by_reason(rejected)],
    )
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def by_reason(rejected: Dataset) -> list[tuple[str, list[dict[str, str]]]]:
    """Examples of each reason, the most frequent first."""
    rows: dict[str, list[int]] = {}
    for row, reason in enumerate(rejected["rejection"]):
        rows.setdefault(reason_class(reason), []).append(row)
    ordered = sorted(rows.items(), key=lambda item: -len(item[1]))
    return [(reason, cards(rejected, numbers)) for reason, numbers in ordered]


def cards(rows: Dataset, numbers: Sequence[int]) -> list[dict[str, str]]:
    """Examples from all over, each with its pictures and what was said of it."""
    step = max(1, len(numbers) // EXAMPLES)
    return [
        {
            "reference": uri(row["conditioning"]), "target": uri(row["image"]),
            "said": row["rejection"] or row["verdict_reason"], "caption": row["caption"], "grid": str(row["grid"]),
        }
        for row in rows.select(list(numbers)[::step][:EXAMPLES])
    ]  # fmt: skip


def uri(image: Image.Image) -> str:
    shown = image.convert("RGB")
    shown.thumbnail((LARGEST, LARGEST))
    return "data:image/png;base64," + b64encode(png(shown)).decode()
