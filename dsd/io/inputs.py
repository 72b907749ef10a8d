"""Read what comes from outside: text and JSON lines, each line checked by a schema where it enters."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dsd.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

Row = TypeVar("Row", bound="BaseModel")


def regular_file(path: str | Path, name: str = "") -> Path:
    """Return the path of a regular file; `name` is the setting. UserError for anything else, a folder or a pipe."""
    file, prefix = Path(path), f"{name}=" if name else ""
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or error
        raise UserError(f"{prefix}{path}: {reason}") from error
    if not stat.S_ISREG(mode):
        raise UserError(f"{prefix}{path}: not a regular file")
    return file


def read_text(path: str | Path, name: str = "") -> str:
    """Read a UTF-8 text file, with or without a byte order mark. UserError says what is wrong with it."""
    file = regular_file(path, name)
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def read_jsonl(path: str | Path, schema: type[Row], name: str = "", example: str = "") -> Iterator[tuple[int, Row]]:
    """Read one JSON object a line as (line number, checked row). UserError names the line and what is wrong with it."""
    from pydantic import ValidationError

    for number, line in enumerate(read_text(path, name).split("\n"), 1):  # U+2028 may stand within a line
        if not line.strip():
            continue
        try:
            yield number, schema.model_validate_json(line)
        except ValidationError as error:
            hint = f"; each line is {example}" if example else ""
            raise UserError(f"{path}:{number}: {first_problem(error)}{hint}") from error


def first_problem(error: Exception) -> str:
    """Say in one line what a schema found wrong first: "prompt: Input should be a valid string"."""
    found = error.errors()[0]  # type: ignore[attr-defined]
    where, what = ".".join(map(str, found["loc"])), str(found["msg"]).removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def read_json(path: str | Path) -> object:
    """Read a JSON file. UserError where it is damaged."""
    try:
        found: object = json.loads(read_text(path))
        return found
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); delete it and run the command that made it again") from error
