"""report.html: one self-contained page that shows what was made, what was thrown away, and how good it is."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from dsd.evaluate import table
from dsd.evaluate.inputs import Inputs
from dsd.evaluate.judged import pair_key, reason_class
from dsd.evaluate.measures import Scored, arm_of
from dsd.evaluate.plots import loss_figure, measures_figure, svg_uri
from dsd.evaluate.sheets import Sheet, same_subject
from dsd.files import atomic
from dsd.pictures import png

NUM_SHEETS = 6
NUM_EXAMPLES = 3  # of each reason
NUM_REFERENCES = 8
LARGEST = 384  # pixels; larger pictures are shown smaller


def write_report(
    path: Path,
    summary: dict[str, Any],
    inputs: Inputs,
    sheets: Mapping[int, Sheet],
    scored: Mapping[str, Sequence[Scored]],
) -> None:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals |= {"number": table.number, "title": table.title}
    html = environment.get_template("report.html.jinja").render(
        summary=summary,
        runs=inputs.runs,
        sheets=sheet_cards(inputs, sheets),
        reasons=rejection_cards(inputs.rejected) if inputs.rejected is not None else [],
        gallery=gallery_rows(inputs.results, scored),
        arm_names=list(dict.fromkeys(map(arm_of, inputs.results))),
        measures_plot=svg_uri(measures_figure(summary)),
        loss_plot=svg_uri(loss_figure(inputs.metrics)) if inputs.metrics else "",
        tables=list(table.tables(summary)),
    )
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def uri(image: Image.Image) -> str:
    """A picture as a data URI, at most LARGEST pixels wide and high."""
    shown = image.convert("RGB")
    shown.thumbnail((LARGEST, LARGEST))
    return "data:image/png;base64," + b64encode(png(shown)).decode()


def spread(num: int, shown: int) -> list[int]:
    """Positions of `shown` of `num` items, evenly spaced: examples that nobody chose."""
    return [i * num // min(num, shown) for i in range(min(num, shown))]


def sheet_cards(inputs: Inputs, sheets: Mapping[int, Sheet]) -> list[dict[str, Any]]:
    """Sheets with what the judge, the selection and the recogniser say of their panel pairs."""
    if inputs.grids is None:
        return []
    rejection_of = {pair_key(row): row["rejection"] for row in without_images(inputs.rejected)}
    cards = []
    for row in inputs.grids.select(spread(len(inputs.grids), NUM_SHEETS)):
        sheet = sheets[row["index"]]
        cards.append({"image": uri(row["image"]), "index": row["index"], "prompt": row["prompt"], "verdicts": [
            {
                "panels": f"{verdict['first'] + 1}–{verdict['second'] + 1}",
                "rejection": rejection_of.get((row["index"], verdict["first"], verdict["second"]), ""),
                "doubted": verdict["same"]
                != same_subject(sheet.readings[verdict["first"]], sheet.readings[verdict["second"]]),
            }
            for verdict in verdicts_of(inputs.verdicts, row["index"])
        ]})  # fmt: skip
    return cards


def verdicts_of(verdicts: Dataset | None, grid: int) -> Sequence[dict[str, Any]]:
    if verdicts is None:
        return []
    rows = [i for i, index in enumerate(verdicts["grid"]) if index == grid]
    return [verdicts[i] for i in rows]


def without_images(pairs: Dataset | None) -> Sequence[Mapping[str, Any]]:
    """Grid, panels and rejection of every pair; decoding the pictures would take a hundred times longer."""
    return [] if pairs is None else list(pairs.select_columns(["grid", "reference_panel", "target_panel", "rejection"]))


def rejection_cards(rejected: Dataset) -> list[dict[str, Any]]:
    """Examples of every class of reason, the most frequent class first; one direction of a pair is enough."""
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
                "reference": uri(row["conditioning"]),
                "target": uri(row["image"]),
                "detail": row["rejection"].partition(":")[2].strip(),
                "grid": row["grid"],
            }
            for row in shown
        ]
        cards.append({"name": name, "examples": examples})
    return cards


def gallery_rows(results: Mapping[str, Dataset], scored: Mapping[str, Sequence[Scored]]) -> list[dict[str, Any]]:
    """A reference, a prompt, and what the first run of every arm made of them."""
    first_runs = {arm_of(run): run for run in reversed(list(results))}  # the earliest run of an arm wins
    made = {arm: {(job.unit, job.prompt): i for i, job in enumerate(scored[run])} for arm, run in first_runs.items()}
    leading = next(iter(results))
    rows = []
    for i in spread(len(scored[leading]), NUM_REFERENCES):
        job = scored[leading][i]
        pictures = []
        for arm in dict.fromkeys(map(arm_of, results)):
            position = made[arm].get((job.unit, job.prompt))
            pictures.append(None if position is None else {
                "arm": arm,
                "image": uri(results[first_runs[arm]][position]["image"]),
                "measures": scored[first_runs[arm]][position].measures,
            })  # fmt: skip
        rows.append({"reference": uri(results[leading][i]["reference"]), "prompt": job.prompt, "pictures": pictures})
    return rows
