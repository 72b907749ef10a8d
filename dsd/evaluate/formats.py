"""Write the rows of a table in LaTeX and as comma-separated values."""

import csv
import re
from io import StringIO

from dsd.evaluate.table import Rows

INTERVAL = re.compile(r"^(?P<value>[-\d.]+) \[(?P<low>[-\d.]+), (?P<high>[-\d.]+)\](?P<rest>.*)$")
SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "×": r"$\times$", "−": r"$-$", "≥": r"$\geq$",
    "≤": r"$\leq$", "±": r"$\pm$", "↓": r"$\downarrow$", "–": "--",
}  # fmt: skip


def latex(rows: Rows) -> str:
    """Write a table for the package booktabs; intervals stand small behind their number."""
    header, *body = (" & ".join(map(_cell, row)) + r" \\" for row in rows)
    columns = "l" + "r" * (len(rows[0]) - 1)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", header, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"])


def _cell(text: str) -> str:
    if found := INTERVAL.match(text):
        low, high = (_escaped(found[name].replace("-", "−")) for name in ("low", "high"))
        return rf"{_escaped(found['value'].replace('-', '−'))} {{\small [{low}, {high}]}}{_escaped(found['rest'])}"
    return _escaped(text)


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def comma_separated(rows: Rows) -> str:
    """Write a table as CSV. A column with intervals becomes three: the number, its low and its high end."""
    wide = [any(INTERVAL.match(row[i]) for row in rows[1:]) for i in range(len(rows[0]))]
    lines: Rows = []
    for number, row in enumerate(rows):
        cells: list[str] = []
        for text, three in zip(row, wide, strict=True):
            found = INTERVAL.match(text)
            if three and number == 0:
                cells += [text, f"{text} low".strip(), f"{text} high".strip()]
            elif three:
                cells += [found["value"] + found["rest"], found["low"], found["high"]] if found else [text, "", ""]
            else:
                cells.append("" if text == "–" else text)
        lines.append(cells)
    written = StringIO()
    csv.writer(written, lineterminator="\n").writerows(lines)
    return written.getvalue()
