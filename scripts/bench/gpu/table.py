"""The table and the plot of a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dsd.io.files import atomic
from gpu.report import number

Rows = Sequence[dict[str, Any]]


def markdown(about: dict[str, Any], rows: Rows) -> str:
    """Write the machine and all rows as Markdown."""
    said = ", ".join(f"{name} {value}" for name, value in about.items())
    lines = [
        said,
        "",
        "| section | quantity | unit | predicted | measured | must |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        name = f"**{row['goal']}** {row['name']}" if row.get("goal") else row["name"]
        found = f"skipped: {row['skipped']}" if "skipped" in row else number(row.get("measured"))
        cells = (
            row["section"],
            name,
            row.get("unit", ""),
            number(row.get("predicted")),
            found,
            number(row.get("must")),
        )
        if "measured" in row or "skipped" in row:
            lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def plot(file: Path, about: dict[str, Any], rows: Rows) -> None:
    """Draw what was measured of every goal, relative to its must, beside what was predicted."""
    goals = [row for row in rows if row.get("goal") and row.get("measured") is not None]
    figure = Figure(figsize=(9, 1.5 + 0.4 * max(1, len(goals))), layout="constrained")
    axes = figure.subplots()
    for at, row in enumerate(goals):
        axes.barh(
            at, row["measured"] / row["must"], color="tab:blue" if row["measured"] >= row["must"] else "tab:orange"
        )
        if row.get("predicted"):
            axes.plot(row["predicted"] / row["must"], at, "k|", markersize=14)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(goals)), [f"{row['goal']}: {row['name']}" for row in goals], fontsize="small")
    axes.set(xlabel="measured / must; | is the prediction", title=f"{about['machine']}, {about['shape']}")
    axes.invert_yaxis()
    with atomic(file) as temporary:
        figure.savefig(temporary, dpi=120)
