"""The numbers of a summary as tables: rows of cells, then Markdown or plain text."""

from collections.abc import Mapping, Sequence
from typing import Any

from dsd.evaluate.judged import missing_of, with_cards
from dsd.metrics.intervals import Estimate

Rows = list[list[str]]  # the first row is the header
SAID = {  # who says "same"
    "kept": "kept (judge and selection)",
    "verdict_same": "the judge says same",
    "similarity_at_judge_recall": "similarity alone, at the judge's recall",
    "similarity_best_f1": "similarity alone, best F1",
}


def number(estimate: Estimate | float | None) -> str:
    """Write "0.712 [0.655, 0.768]", or "–" where the number is not defined."""
    if isinstance(estimate, dict):
        low, high = estimate["low"], estimate["high"]
        interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
        return number(estimate["value"]) + interval + missing_of(estimate)
    return "–" if estimate is None else f"{estimate:.3f}"


def title(name: str) -> str:
    """Write a name as people read it: "student - text_only" -> "student − text only", "CPxPF" -> "CP × PF"."""
    return name.replace("CPxPF", "CP × PF").replace("_", " ").replace(" - ", " − ")


def tables(summary: Mapping[str, Any]) -> dict[str, Rows]:
    """Make every table that the summary has numbers for, by name, the arms first."""
    measures = summary["measures"]
    found = {f"arms {name}": arms_rows(summary, scale) for name, scale in measures.items()}
    if summary["comparisons"]:
        found["comparisons"] = comparison_rows(summary)
    found |= {f"parts {name}": part_rows(summary, scale) for name, scale in measures.items() if scale["parts"]}
    if summary["teacher"]:
        found["teacher"] = teacher_rows(summary["teacher"])
    if summary["curation"] and (accuracy := summary["curation"]["accuracy"]):
        found["curation"] = classified_rows("pairs of one subject", {k: accuracy[k] for k in SAID if k in accuracy})
        found["filters"] = classified_rows("a filter by itself", accuracy["filters"])
    return with_cards(found, summary)


def arms_rows(summary: Mapping[str, Any], scale: Mapping[str, Any]) -> Rows:
    """A row for each arm, and one for what guessing scores."""
    names = scale["names"]
    header = ["arm", "runs", "pictures", *map(title, names)]
    arms = [
        [title(arm), str(len(row["runs"])), str(row[names[0]]["n"]), *(number(row[name]) for name in names)]
        for arm, row in summary["arms"].items()
    ]
    return [header, *arms, *chance_rows(scale, names, ["", ""])]


def part_rows(summary: Mapping[str, Any], scale: Mapping[str, Any]) -> Rows:
    """A row for each arm with the numbers of single attributes."""
    names = scale["parts"]
    arms = [[title(arm), *(number(row["attributes"][n]) for n in names)] for arm, row in summary["arms"].items()]
    return [["preserved", *map(title, names)], *arms, *chance_rows(scale, names, [])]


def chance_rows(scale: Mapping[str, Any], names: Sequence[str], between: list[str]) -> Rows:
    """The row of what guessing scores, if that is known."""
    known = [number(scale["chance"][name]) if name in scale["chance"] else "" for name in names]
    return [["chance", *between, *known]] if any(known) else []


def comparison_rows(summary: Mapping[str, Any]) -> Rows:
    """A row for each two arms that are compared."""
    rows = [[title(name), number(estimate)] for name, estimate in summary["comparisons"].items()]
    return [[f"{title(summary['compared'])} of", ""], *rows]


def teacher_rows(teacher: Mapping[str, Any]) -> Rows:
    """A row for each number of the teacher's panels, then of its panel pairs, then of single attributes."""
    titles, chance, by_attribute = teacher["titles"], teacher["chance"], teacher["agreement_of"]
    rows: Rows = [["teacher", "", "chance", "n"]]
    for unit in ("panels", "pairs"):
        for name in teacher[f"of_{unit}"]:
            guess = number(chance[name]) if name in chance else ""
            rows.append([titles.get(name, title(name)), number(teacher[name]), guess, f"{teacher[name]['n']} {unit}"])
    for name, found in by_attribute.items():
        guess = number(chance["agreement_of"][name]) if name in chance["agreement_of"] else ""
        rows.append([f"panel pairs that agree on {title(name)}", number(found), guess, f"{found['n']} pairs"])
    return rows


def classified_rows(header: str, found: Mapping[str, Any]) -> Rows:
    """A row for each way to choose pairs, with its precision and recall."""
    rows = [
        [SAID.get(name, name), number(row["precision"]), number(row["recall"]), str(row["precision"]["n"])]
        for name, row in found.items()
    ]
    return [[header, "precision", "recall", "pairs"], *rows]


def markdown(rows: Rows) -> str:
    """Write a table in Markdown."""
    header, *body = ("| " + " | ".join(row) + " |" for row in rows)
    rule = "|" + " --- |" * len(rows[0])
    return "\n".join([header, rule, *body])


def plain(rows: Rows) -> str:
    """Write a table in plain text, its columns aligned by spaces."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
