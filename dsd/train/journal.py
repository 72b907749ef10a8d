"""Write and read the lines of JSON that a training leaves: metrics.jsonl and validation.jsonl."""

import json
from pathlib import Path
from typing import Any

from dsd.io.files import atomic

METRICS, VALIDATION = "metrics.jsonl", "validation.jsonl"


def append(file: Path, line: dict[str, Any]) -> None:
    """Append a line of JSON; numbers have six significant digits."""
    rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in line.items()}
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(rounded) + "\n")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read the whole lines; a kill may have cut the last one."""
    found = []
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def forget_after(file: Path, step: int) -> None:
    """Drop the lines after a step: an interrupted run logs again what followed its last checkpoint."""
    if file.exists():
        kept = [line for line in read_lines(file) if line["step"] <= step]
        with atomic(file) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
