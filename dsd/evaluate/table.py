"""The numbers of a summary as tables: rows of cells, then Markdown or plain text."""

from collections.abc import Mapping, Sequence
from typing import Any

from dsd.evaluate.judged import missing_of, with_cards
from dsd.metrics.intervals import Estimate

Rows = list[list[str]]  # the first row is the header
LESS = "↓"  # marks a number of which less is better
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


def column(name: str, scale: Mapping[str, Any]) -> str:
    """Write a name as the header of a column: "drift ↓" where less is better."""
    return title(name) + (f" {LESS}" if name in scale["lower"] else "")


def tables(summary: Mapping[str, Any]) -> dict[str, Rows]:
    """Make every table that the summary has numbers for, by name, the arms first."""
    measures = summary["measures"]
    found = {f"arms {name}": arms_rows(summary, scale) for name, scale in measures.items()}
    if summary["published"]:
        found["published"] = published_rows(summary)
    if any(arm["by"] for arm in summary["arms"].values()):
        found |= {f"by {name}": rows for name, scale in measures.items() if (rows := columns_rows(summary, scale))}
    if summary["comparisons"]:
        found["comparisons"] = comparison_rows(summary)
    if any(len(arm["runs"]) > 1 for arm in summary["arms"].values()):
        found |= {f"repeats {name}": repeat_rows(summary, scale) for name, scale in measures.items()}
    if any(len(counts) > 1 for counts in summary["coverage"].values()):
        found["coverage"] = coverage_rows(summary["coverage"])
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
    header = ["arm", "runs", "pictures", *(column(name, scale) for name in names)]
    arms = [
        [title(arm), str(len(row["runs"])), counted(row, names), *(number(row[name]) for name in names)]
        for arm, row in summary["arms"].items()
    ]
    return [header, *arms, *chance_rows(scale, names, ["", ""])]


def counted(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Write how many pictures were measured, "98 of 100" where jobs lack a picture or a number."""
    measured, jobs = row[names[0]]["n"], row["jobs"]
    return str(measured) if measured == jobs else f"{measured} of {jobs}"


def columns_rows(summary: Mapping[str, Any], scale: Mapping[str, Any]) -> Rows:
    """Make a row for each arm: numbers by category or kind, then over pictures and over columns.

    There are no rows where the jobs have neither categories nor kinds.
    """
    arms = summary["arms"]
    by = next(iter(arms.values()))["by"]
    names = [name for name in scale["names"] if name in by]
    header = ["arm"]
    for name in names:
        said = column(name, scale)
        header += [f"{said} {title(kind)}" for kind in by[name]["columns"]]
        header += [f"{said} over pictures", f"{said} over columns"]
    rows = []
    for arm, row in arms.items():
        cells = [title(arm)]
        for name in names:
            cells += [number(estimate) for estimate in row["by"][name]["columns"].values()]
            cells += [number(row[name]), number(row["by"][name]["mean"])]
        rows.append(cells)
    return [header, *rows] if names else []


def published_rows(summary: Mapping[str, Any]) -> Rows:
    """Our arms by both rules, then the printed rows, each with its judge and the rule by which it was made."""
    known = summary["published"]
    columns = {name: list(known["weights"][name]) for name in ("CP", "PF")}
    header = ["method", "judge"]
    for name, every in columns.items():
        header += [*(f"{name} {column}" for column in every), name]
    rows = our_rows(summary, columns)
    judges = {judge for *_, judge in [row[:2] for row in rows]}
    for one in known["tables"]:
        for row in one["rows"]:
            cells = [number(row[name].get(key)) for name, every in columns.items() for key in (*every, "overall")]
            remarks = [row["remark"]] if row["remark"] else []
            remarks += [] if judges == {one["judge"]} else ["other judge: not comparable"]
            rows.append([row["method"], one["judge"], *cells, number(row["CPxPF"]), row["rule"], "; ".join(remarks)])
    return [[*header, title("CPxPF"), "over", f"printed in {known['source']}"], *rows]


def our_rows(summary: Mapping[str, Any], columns: Mapping[str, Sequence[str]]) -> Rows:
    """Our arms in the form of the printed rows, by both rules; none where CP or PF is not measured."""
    scale = next((one for one in summary["measures"].values() if {"CP", "PF", "CPxPF"} <= {*one["names"]}), None)
    rows: Rows = []
    for arm, row in summary["arms"].items() if scale is not None else ():
        by = row["by"]
        for rule in ("pictures", "columns") if by else ("pictures",):
            cells = []
            for name in ("CP", "PF"):
                there = by.get(name, {"columns": {}})["columns"]
                overall = row[name] if rule == "pictures" or name not in by else by[name]["mean"]
                cells += [number(there.get(column, {"value": None})["value"]) for column in columns[name]]
                cells.append(number(overall["value"]))
            product = row["CPxPF"] if rule == "pictures" else by["CPxPF"]["mean"]
            judge = (scale or {}).get("judge") or "–"
            rows.append([title(arm), judge, *cells, number(product["value"]), rule, ""])
    return rows


def repeat_rows(summary: Mapping[str, Any], scale: Mapping[str, Any]) -> Rows:
    """A row for each arm: mean over its runs and their sample standard deviation."""
    rows = []
    for arm, row in summary["arms"].items():
        cells = [number(row[n]["value"]) + (f" ± {d:.3f}" if (d := row["deviation"][n]) is not None else "")
                 for n in scale["names"]]  # fmt: skip
        rows.append([title(arm), str(len(row["runs"])), *cells])
    return [["mean ± deviation over runs", "runs", *(column(name, scale) for name in scale["names"])], *rows]


def coverage_rows(coverage: Mapping[str, Mapping[str, int]]) -> Rows:
    """A row for each run: its jobs, and what became of those without a picture. None of these counts as a 0."""
    names = list(dict.fromkeys(name for counts in coverage.values() for name in counts))
    return [
        ["run", *map(title, names)],
        *([title(run), *(str(counts.get(name, 0)) for name in names)] for run, counts in coverage.items()),
    ]


def part_rows(summary: Mapping[str, Any], scale: Mapping[str, Any]) -> Rows:
    """A row for each arm with the numbers of single attributes."""
    names = scale["parts"]
    arms = [[title(arm), *(number(row["attributes"][n]) for n in names)] for arm, row in summary["arms"].items()]
    return [["preserved", *(column(name, scale) for name in names)], *arms, *chance_rows(scale, names, [])]


def chance_rows(scale: Mapping[str, Any], names: Sequence[str], between: list[str]) -> Rows:
    """The row of what guessing scores, if that is known."""
    known = [number(scale["chance"][name]) if name in scale["chance"] else "" for name in names]
    return [["chance", *between, *known]] if any(known) else []


def comparison_rows(summary: Mapping[str, Any]) -> Rows:
    """A row for each two arms that are compared, on their common jobs."""
    rows = [
        [title(name), number(found), str(found["n"]), str(found["subjects"]), number(found["won"]),
         "yes" if found["apart"] else "no"]
        for name, found in summary["comparisons"].items()
    ]  # fmt: skip
    scale = next(scale for scale in summary["measures"].values() if summary["compared"] in scale["names"])
    compared = f"{column(summary['compared'], scale)} of"
    return [[compared, "value", "common jobs", "subjects", "subjects won", "told apart"], *rows]


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
