"""The numbers as tables: rows of cells, then Markdown or plain text."""

from collections.abc import Iterator, Sequence
from typing import Any

from dsd.evaluate.measures import MEASURES
from dsd.metrics.intervals import Estimate

Rows = list[list[str]]  # the first row is the header
TITLES = {"CP": "CP", "CP_strict": "CP strict", "PF": "PF", "CPxPF": "CP × PF", "named": "named"}


def number(estimate: Estimate | float | None) -> str:
    """ "0.712 [0.655, 0.768]"; "–" where it is not defined."""
    if isinstance(estimate, dict):
        low, high = estimate["low"], estimate["high"]
        interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
        return number(estimate["value"]) + interval
    return "–" if estimate is None else f"{estimate:.3f}"


def arms_rows(summary: dict[str, Any]) -> Rows:
    """A row an arm, and what guessing would score."""
    header = ["arm", "runs", "pictures", *(TITLES[name] for name in MEASURES)]
    arms = [
        [title(arm), str(len(row["runs"])), str(row["CP"]["n"]), *(number(row[name]) for name in MEASURES)]
        for arm, row in summary["arms"].items()
    ]
    return [header, *arms, ["chance", "", "", *(number(summary["chance"][name]) for name in MEASURES)]]


def comparison_rows(summary: dict[str, Any]) -> Rows:
    return [["CP × PF of", ""], *([title(name), number(e)] for name, e in summary["comparisons"].items())]


def attribute_rows(summary: dict[str, Any]) -> Rows:
    """CP by attribute."""
    names = list(next(iter(summary["arms"].values()))["attributes"])
    arms = [[title(arm), *(number(row["attributes"][n]) for n in names)] for arm, row in summary["arms"].items()]
    chance = ["chance", *(number(summary["chance"][name]) for name in names)]
    return [["preserved", *map(title, names)], *arms, chance]


def teacher_rows(summary: dict[str, Any]) -> Rows:
    teacher = summary["teacher"]
    chance = teacher["chance"]
    return [
        ["teacher", "", "chance", "n"],
        ["PF of a panel", number(teacher["PF"]), "", f"{teacher['PF']['n']} panels"],
        ["named attributes of a panel", number(teacher["named"]), "", f"{teacher['named']['n']} panels"],
        [
            "panel pairs that agree on every unnamed attribute",
            number(teacher["agreement"]),
            number(chance["agreement"]),
            f"{teacher['agreement']['n']} pairs",
        ],
        *(
            [
                f"… on {title(name)}",
                number(e),
                number(chance["agreement_of"][name]) if name in chance["agreement_of"] else "",
                f"{e['n']} pairs",
            ]
            for name, e in teacher["agreement_of"].items()
        ),
    ]


def curation_rows(summary: dict[str, Any]) -> Rows:
    """Who says "same", against the recogniser."""
    said = {
        "kept": "kept (judge and selection)",
        "verdict_same": "the judge says same",
        "similarity_at_judge_recall": "similarity alone, at the judge's recall",
        "similarity_best_f1": "similarity alone, best F1",
    }
    accuracy = summary["curation"]["accuracy"]
    rows = [
        [
            label,
            number(accuracy[name]["precision"]),
            number(accuracy[name]["recall"]),
            str(accuracy[name]["precision"]["n"]),
        ]
        for name, label in said.items()
        if name in accuracy
    ]
    return [["pairs of one subject", "precision", "recall", "pairs"], *rows]


def filter_rows(summary: dict[str, Any]) -> Rows:
    """Each filter of the curation by itself, and all of them together, over all pairs of panels."""
    rows = [
        [name, number(found["precision"]), number(found["recall"]), str(found["precision"]["n"])]
        for name, found in summary["curation"]["accuracy"]["filters"].items()
    ]
    return [["a filter by itself", "precision", "recall", "pairs"], *rows]


def tables(summary: dict[str, Any]) -> Iterator[Rows]:
    """All that the summary has numbers for, the arms first."""
    yield arms_rows(summary)
    if summary["comparisons"]:
        yield comparison_rows(summary)
    yield attribute_rows(summary)
    if summary["teacher"]:
        yield teacher_rows(summary)
    if summary["curation"] and summary["curation"]["accuracy"]:
        yield curation_rows(summary)
        yield filter_rows(summary)


def title(name: str) -> str:
    """As a reader sees it: "student - text_only" -> "student − text only"."""
    return name.replace("_", " ").replace(" - ", " − ")


def markdown(rows: Rows) -> str:
    header, *body = ("| " + " | ".join(row) + " |" for row in rows)
    rule = "|" + " --- |" * len(rows[0])
    return "\n".join([header, rule, *body])


def plain(rows: Rows) -> str:
    """Columns aligned by spaces."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines: Sequence[str] = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
