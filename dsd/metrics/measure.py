"""The protocol of a measure: pictures, references and prompts -> named numbers of each picture.

A measure is a class with these methods and a YAML file in configs/measure/. An evaluation takes any number of them and
makes intervals from their numbers (metrics/intervals.py); a training logs their means (`means`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import numpy as np
from PIL import Image

from dsd.errors import UserError

Scores = dict[str, float]  # by name; a name that is missing was not measured, which is not the same as 0


@dataclass(frozen=True)
class Drawing:
    """A picture and what it was drawn from."""

    picture: Image.Image
    reference: Image.Image
    prompt: str
    truth: str = ""  # JSON {attribute: value} of the reference's subject where it is known, otherwise ""
    others: tuple[Image.Image, ...] = ()  # more references of the same picture
    category: str = ""  # of the subject, "" where it has none
    kind: str = ""  # of the prompt, "" where it has none


@dataclass(frozen=True)
class Scale:
    """The names of a measure's numbers and how to read them. More is better, but for the names in `lower`."""

    names: tuple[str, ...]  # columns of the main table, in order, products included
    headline: str  # the name by which two methods are compared
    explained: str  # what the names mean, in a few plain sentences, for the report
    unit: str = ""  # what the numbers count, the label of the plot's axis
    units: Mapping[str, str] = field(default_factory=dict)  # by name, where another one; these have a plot of their own
    lower: tuple[str, ...] = ()  # names of which less is better, such as an error
    plotted: tuple[str, ...] = ()  # names that the plot shows; (): all of them
    parts: tuple[str, ...] = ()  # numbers of single attributes, in a table of their own
    products: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # product of means: {"CPxPF": ("CP", "PF")}
    chance: Mapping[str, float] = field(default_factory=dict)  # what guessing scores, by name
    titles: Mapping[str, str] = field(default_factory=dict)  # longer names for people, where there are any
    by_kind: tuple[str, ...] = ()  # names told by kind of prompt; the others are told by category of subject
    judge: str = ""  # id of the judge that answered; "" where none was asked


@dataclass(frozen=True)
class GridScale:
    """The names of a grid measure's numbers and how to read them."""

    panel_names: tuple[str, ...]  # numbers of one panel
    pair_names: tuple[str, ...]  # shares of panel pairs
    pair_parts: tuple[str, ...]  # the same by single attribute
    chance: Mapping[str, float]  # what guessing scores, by name
    titles: Mapping[str, str]  # what people read in place of a name
    groups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # attributes of a subject -> number of values
    relation: str = "same"  # of the grids whose panels are meant to go together


@dataclass(frozen=True)
class SelfCheck:
    """How often a measure itself is right, as far as the scored references tell."""

    numbers: Mapping[str, Any]  # for summary.json
    said: str  # the same in one or two sentences, for the report


@dataclass(frozen=True)
class GridScores:
    """The numbers of one grid's panels."""

    panels: list[Scores]  # of each panel, row by row
    pairs: dict[tuple[int, int], Scores]  # of each two panels, first < second
    same_subject: dict[tuple[int, int], bool]  # whether both go together: one subject, or one picture in two lights
    shown: list[Mapping[str, str]] = field(default_factory=list)  # of each panel, the attributes of the scale's groups


class GridMeasure(Protocol):
    """Knows what the panels of a teacher's grid show and whether two of them show one subject."""

    @property
    def scale(self) -> GridScale: ...

    def objection(self, caption: str) -> str:
        """Why a panel with this caption cannot be scored; "" if it can."""
        ...

    def __call__(self, panels: Sequence[Sequence[Image.Image]], captions: Sequence[Sequence[str]]) -> list[GridScores]:
        """Score grids, each given by its panels and their captions, row by row."""
        ...


class Measure(Protocol):
    """Scores pictures, a batch at a time."""

    @property
    def scale(self) -> Scale: ...

    @property
    def grids(self) -> GridMeasure | None:
        """Scores a teacher's grids; None where the measure cannot tell whether two panels show one subject."""
        ...

    def objection(self, prompt: str, truth: str) -> str:
        """Why a picture of this prompt and truth cannot be scored; "" if it can."""
        ...

    def __call__(self, drawings: Sequence[Drawing]) -> Sequence[Scores]:
        """Score every picture, in order."""
        ...

    def self_check(self) -> SelfCheck | None:
        """What the scored references tell of the measure's own accuracy; None where nothing is known."""
        ...


def refuse_unsuited(name: str, measure: Measure, where: str, prompt: str, truth: str) -> None:
    """UserError with the place and the reason where the measure cannot score a picture of this prompt and truth."""
    if reason := measure.objection(prompt, truth):
        raise UserError(f"{where}: measure {name} cannot score it: {reason}")


def mean_scores(scale: Scale, scores: Sequence[Scores]) -> dict[str, float]:
    """Mean over pictures of every name, and the products of means; nan for a name that no picture has."""
    measured = {
        name: [row[name] for row in scores if name in row] for name in scale.names if name not in scale.products
    }
    means = {name: float(np.mean(values)) if values else float("nan") for name, values in measured.items()}
    means |= {name: prod(means[factor] for factor in factors) for name, factors in scale.products.items()}
    return {name: means[name] for name in scale.names}
