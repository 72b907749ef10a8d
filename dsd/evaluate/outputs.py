"""Write what people look at: the numbers, the tables, the plot and the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsd.evaluate import formats, table
from dsd.evaluate.figures import measures_figure
from dsd.evaluate.inputs import Inputs
from dsd.evaluate.report import write_report
from dsd.evaluate.scoring import Scored
from dsd.evaluate.stored import Same
from dsd.io.files import atomic, remove_all_stale, write_json

NUMBERS = ("summary.json", "table.md", "table.tex")
PICTURES = ("measures.png", "report.html")
TABLES = "tables"  # folder of the CSV files


def write_outputs(
    output_dir: Path, summary: Mapping[str, Any], inputs: Inputs, same: Same, scored: Mapping[str, Sequence[Scored]],
    missing: Mapping[str, str] | None = None,
) -> list[Path]:  # fmt: skip
    """Write the numbers, the tables, the plot and the report; print the tables. Returns the files.

    `missing` says what the report shows without its pictures, and why.
    """
    remove_all_stale(output_dir, below=True)
    named = table.tables(summary)
    write_json(output_dir / "summary.json", summary)
    write_tables(output_dir, named)
    with atomic(output_dir / "measures.png") as temporary:
        measures_figure(summary).savefig(temporary, dpi=160, facecolor="white")
    write_report(output_dir / "report.html", summary, inputs, same, scored, missing or {})
    print("\n\n".join(map(table.plain, named.values())))
    return [*(output_dir / name for name in (*NUMBERS, *PICTURES)), *csv_files(output_dir)]


def write_tables(output_dir: Path, named: Mapping[str, table.Rows]) -> None:
    """Write tables as Markdown, LaTeX and a CSV file each; CSV files of an earlier evaluation go."""
    for name, write in (("table.md", table.markdown), ("table.tex", formats.latex)):
        with atomic(output_dir / name) as temporary:
            temporary.write_text("\n\n".join(map(write, named.values())) + "\n", encoding="utf-8")
    files = {output_dir / TABLES / f"{name.replace(' ', '-')}.csv": rows for name, rows in named.items()}
    for path, rows in files.items():
        with atomic(path) as temporary:
            temporary.write_text(formats.comma_separated(rows), encoding="utf-8")
    for path in set(csv_files(output_dir)) - files.keys():
        path.unlink()


def csv_files(output_dir: Path) -> list[Path]:
    """List the CSV files of an evaluation."""
    return sorted((output_dir / TABLES).glob("*.csv"))
