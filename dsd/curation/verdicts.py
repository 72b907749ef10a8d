"""Read stored verdicts, and check each where it enters."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dsd.errors import UserError
from dsd.io.inputs import first_problem
from dsd.io.records import Verdict
from dsd.runs.shards import read_shard

_form = TypeAdapter(Verdict)


def read_verdicts(path: Path, grids: Collection[int]) -> dict[int, list[Verdict]]:
    """Read the verdicts of a shard by grid. UserError where one is damaged or is not about one of these grids."""
    found: defaultdict[int, list[Verdict]] = defaultdict(list)
    for verdict in checked(read_shard(path), str(path)):
        if verdict.grid not in grids:
            raise UserError(f"{path}: a verdict on grid {verdict.grid}, which is not of this shard; {_remedy()}")
        found[verdict.grid].append(verdict)
    return found


def checked(rows: Iterable[Mapping[str, Any]], where: str) -> list[Verdict]:
    """Read rows as verdicts, each pair at most once. UserError names the first row that is none."""
    found: dict[tuple[int, int, int], Verdict] = {}
    for number, row in enumerate(rows):
        try:
            verdict = _form.validate_python(dict(row))
            wrong = _problem(verdict)
        except ValidationError as error:
            wrong = first_problem(error)
        if not wrong and (key := (verdict.grid, verdict.first, verdict.second)) in found:
            wrong = f"a second verdict on panels {key[1]} and {key[2]} of grid {key[0]}"
        if wrong:
            raise UserError(f"{where}: row {number} is no verdict ({wrong}); {_remedy()}")
        found[key] = verdict
    return list(found.values())


def _problem(verdict: Verdict) -> str:
    if not 0 <= verdict.first < verdict.second:
        return f"panels {verdict.first} and {verdict.second}"
    try:
        scores = json.loads(verdict.scores)
    except ValueError as error:
        return f"scores: {error}"
    if not isinstance(scores, dict):
        return "scores: not a JSON object"
    numbers = (isinstance(s, int | float) and not isinstance(s, bool) and math.isfinite(s) for s in scores.values())
    return "" if all(numbers) else "scores: not all are finite numbers"


def _remedy() -> str:
    return "delete the file and run dsd-curate again"
