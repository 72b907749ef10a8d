"""Write and read the lines of JSON that a training leaves: metrics.jsonl and validation.jsonl."""

import json
import logging
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from dsd.io.files import atomic
from dsd.io.inputs import regular_file

METRICS, VALIDATION = "metrics.jsonl", "validation.jsonl"
log = logging.getLogger(__name__)


class Line(BaseModel, extra="allow"):
    """The numbers of a step."""

    __pydantic_extra__: dict[str, float | None]
    step: Annotated[int, Field(ge=0)]


def append(file: Path, line: dict[str, Any]) -> None:
    """Append a line of JSON; numbers have six significant digits."""
    rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in line.items()}
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(rounded) + "\n")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read the whole lines. Damaged ones are dropped, and that is said; a kill may have cut the last one."""
    if not file.exists():
        return []
    texts, found = regular_file(file).read_text(encoding="utf-8", errors="replace").split("\n"), []
    bad = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            Line.model_validate(line)
            found.append(line)
        except (ValidationError, ValueError, RecursionError):
            if text.strip() and number < len(texts):  # what follows the last line end was cut
                bad.append(number)
    if bad:
        log.warning("train: %s: %d damaged lines are dropped, such as line %d", file, len(bad), bad[0])
    return found


def forget_after(file: Path, step: int) -> None:
    """Drop the lines after a step: an interrupted run logs again what followed its last checkpoint."""
    if file.exists():
        kept = [line for line in read_lines(file) if line["step"] <= step]
        with atomic(file) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
