"""Rows that papers printed, to stand beside one's own, and the rules by which they were put together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from dsd.errors import UserError
from dsd.io.inputs import first_problem, read_text

FOLDER = Path(__file__).parent
OVERALL = "overall"
HALF = 0.0005  # what rounding to three digits can hide
Number = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Columns = dict[str, Number]  # by column, with OVERALL


class PublishedRow(BaseModel, extra="forbid"):
    """A method's printed numbers."""

    method: str
    CP: Columns
    PF: Columns
    CPxPF: Number
    rule: Literal["pictures", "columns", ""] = ""  # by which the printed CP was made; "" where no columns are printed
    remark: str = ""


class PublishedTable(BaseModel, extra="forbid"):
    """Rows of one judge."""

    judge: str
    rows: list[PublishedRow]


class Published(BaseModel, extra="forbid"):
    """What a paper printed for a benchmark."""

    benchmark: str
    source: str
    weights: dict[Literal["CP", "PF"], dict[str, float]]  # pictures of each column, or in their proportion
    tables: list[PublishedTable]


def read_published(name: str) -> Published:
    """Read printed rows, ours by name or a file's. UserError names the field that is wrong."""
    ours = FOLDER / f"{name}.yaml"
    path = ours if "/" not in name and ours.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"published={name}: no such file; choose {known}, or give a YAML file of the same form")
    try:
        return Published.model_validate(yaml.safe_load(read_text(path)))
    except (ValidationError, yaml.YAMLError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise UserError(f"published={path}: {reason}") from error


def over_pictures(columns: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Mean over pictures: columns weighted by their numbers of pictures."""
    there = [name for name in weights if name in columns]
    return sum(columns[name] * weights[name] for name in there) / sum(weights[name] for name in there)


def over_columns(columns: Mapping[str, float]) -> float:
    """Plain mean of the columns."""
    values = [value for name, value in columns.items() if name != OVERALL]
    return sum(values) / len(values)


def rules_of(columns: Mapping[str, float], weights: Mapping[str, float]) -> list[str]:
    """The rules by which a printed overall can have been made from printed columns, as far as rounding tells."""
    found = {"pictures": over_pictures(columns, weights), "columns": over_columns(columns)}
    return [rule for rule, value in found.items() if abs(value - columns[OVERALL]) <= 2 * HALF]
