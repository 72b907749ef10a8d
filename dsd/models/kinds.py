"""Make a student of either kind from its settings or from an adapter's metadata."""

from collections.abc import Mapping
from typing import Any

from dsd.errors import UserError
from dsd.models.canvas import POSITIONS
from dsd.models.families import Family, family_named
from dsd.models.student import CanvasStudent, Student
from dsd.models.tokens import TokenStudent

KINDS = ("canvas", "tokens")


def make_student(
    family: Family, kind: str, positions: str | None = None, attention: str | None = None, **others: Any
) -> Student:
    """Make a student; None is the family's own rule. UserError where the family does not know what is asked for."""
    if kind == "canvas":
        if family.name != "flux1":
            raise UserError(f"student=canvas widens the input of FLUX.1; {family.name} takes student=tokens")
        return CanvasStudent(positions=_known("positions", positions, POSITIONS, kind), family=family, **others)
    if kind != "tokens":
        raise UserError(f"student.kind={kind} is unknown; choose one of {', '.join(KINDS)}")
    return TokenStudent(
        family,
        positions=_known("positions", positions, family.positions, family.name),
        attention=_known("attention", attention, family.attentions, family.name),
        **others,
    )


def student_from(about: Mapping[str, Any], **others: Any) -> Student:
    """Make the student that an adapter's metadata describes, or the transformer of a pipeline that was saved."""
    told = {"kind": "canvas", "family": "flux1", **about}
    return make_student(
        family_named(told["family"]), told["kind"], told.get("positions"), told.get("attention"), **others
    )


def _known(name: str, value: str | None, choices: tuple[str, ...], of: str) -> str:
    """Check that a choice is known; None means the first one."""
    if value is None:
        return choices[0]
    if value not in choices:
        raise UserError(f"student.{name}={value} is unknown to {of}; choose one of {', '.join(choices)}")
    return value
