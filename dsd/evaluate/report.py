"""report.html: one self-contained page that shows what was made, what was discarded, and how good it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from dsd.evaluate import table
from dsd.evaluate.accuracy import pair_key
from dsd.evaluate.figures import measures_figure
from dsd.evaluate.gallery import gallery, spread
from dsd.evaluate.inputs import Inputs, without_images
from dsd.evaluate.scoring import Scored
from dsd.evaluate.stored import Same
from dsd.io.pictures import data_uri
from dsd.io.records import reason_class
from dsd.metrics.plots import loss_figure, svg_uri
from dsd.runs.html import write_page

TEMPLATE = Path(__file__).with_name("report.html.jinja")
NUM_GRIDS = 6
NUM_EXAMPLES = 3  # of each reason
LARGEST = 384  # pixels; larger pictures are shown smaller


def write_report(
    path: Path,
    summary: Mapping[str, Any],
    inputs: Inputs,
    same: Same,
    scored: Mapping[str, Sequence[Scored]],
    missing: Mapping[str, str],
) -> None:
    """Write the page from the summary, and pictures from the inputs. `missing` says which inputs are not there."""
    write_page(
        path,
        TEMPLATE,
        number=table.number,
        title=table.title,
        summary=summary,
        runs=inputs.runs,
        grids=grid_cards(inputs, same),
        missing=missing,
        reasons=rejection_cards(inputs.rejected) if inputs.rejected is not None else [],
        gallery=gallery(inputs.results, scored, shown_names(summary), lower_names(summary)),
        measures_plot=svg_uri(measures_figure(summary)),
        loss_plot=svg_uri(loss_figure(inputs.metrics)) if inputs.metrics else "",
        tables=table.tables(summary),
    )


def shown_names(summary: Mapping[str, Any]) -> list[str]:
    """The numbers that stand below a single picture: those that are plotted, without products."""
    return [
        name
        for scale in summary["measures"].values()
        for name in scale["plotted"] or scale["names"]
        if name not in scale["products"]
    ]


def lower_names(summary: Mapping[str, Any]) -> list[str]:
    """The numbers of which less is better."""
    return [name for scale in summary["measures"].values() for name in scale["lower"]]


def grid_cards(inputs: Inputs, same_by_grid: Same) -> list[dict[str, Any]]:
    """Show grids with what the judge and the selection said of their panel pairs, and where the measure disagrees."""
    if inputs.grids is None:
        return []
    rejection_of = {pair_key(row): row["rejection"] for row in without_images(inputs.rejected)}
    cards = []
    for row in inputs.grids.select(spread(len(inputs.grids), NUM_GRIDS)):
        same = same_by_grid.get(row["index"], {})
        cards.append({"image": data_uri(row["image"], LARGEST), "index": row["index"], "prompt": row["prompt"],
                      "verdicts": [
            {
                "panels": f"{first + 1}–{second + 1}",
                "rejection": rejection_of.get((row["index"], first, second), ""),
                "doubted": said != same.get((first, second), said),
            }
            for first, second, said in verdicts_of(inputs.verdicts, row["index"])
        ]})  # fmt: skip
    return cards


def verdicts_of(verdicts: Dataset | None, grid: int) -> list[tuple[int, int, bool]]:
    """List the verdicts on a grid: first panel, second panel, whether the judge said "same"."""
    if verdicts is None:
        return []
    rows = [verdicts[i] for i, index in enumerate(verdicts["grid"]) if index == grid]
    return [(row["first"], row["second"], row["same"]) for row in rows]


def rejection_cards(rejected: Dataset) -> list[dict[str, Any]]:
    """Show examples of every class of reason, the most frequent class first; one direction of a pair is enough."""
    rows_of: dict[str, list[int]] = {}
    columns = rejected.select_columns(["rejection", "reference_panel", "target_panel"])
    for i, row in enumerate(columns):
        rows_of.setdefault(reason_class(row["rejection"]), [])
        if row["reference_panel"] < row["target_panel"]:
            rows_of[reason_class(row["rejection"])].append(i)
    cards = []
    for name, rows in sorted(rows_of.items(), key=lambda item: -len(item[1])):
        shown = [rejected[rows[i]] for i in spread(len(rows), NUM_EXAMPLES)]
        examples = [
            {
                "reference": data_uri(row["conditioning"], LARGEST),
                "target": data_uri(row["image"], LARGEST),
                "detail": row["rejection"].partition(":")[2].strip(),
                "grid": row["grid"],
            }
            for row in shown
        ]
        cards.append({"name": name, "examples": examples})
    return cards
