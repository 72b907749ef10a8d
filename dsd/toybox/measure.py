"""The toybox's truth as a measure: what a recogniser reads off a picture against what is known of its subject.

CP, concept preservation: share of the *unnamed* attributes (those that only the reference carries) that are read as
they are in truth. CP_strict: 1 where all of them are right, otherwise 0. PF, prompt following: share of the context's
attributes that the prompt settles, read as the prompt says. CPxPF: product of the two means over jobs, as DreamBench++
aggregates (arXiv 2406.16855). named: share of the subject's named attributes that are right.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, combinations, islice
from math import prod
from typing import Any, Protocol

import numpy as np
from PIL import Image

from dsd.metrics.measure import Drawing, GridScale, GridScores, Scale, Scores, SelfCheck
from dsd.toybox import grammar
from dsd.toybox.world import CONTEXT, NAMED, SUBJECT, UNNAMED

Reading = dict[str, str]  # attribute -> value, such as {"belly": "green", "scene": "beach"}


class Recogniser(Protocol):
    """Reads every attribute of the toybox off pictures of one panel each."""

    @property
    def measured(self) -> Mapping[str, Mapping[str, float]]:
        """Its accuracy by kind of picture and attribute, where it is known."""
        ...

    def read(self, images: list[Image.Image]) -> Sequence[Reading]: ...


def guesses(attributes: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The share that uniform guessing gets right, by attribute."""
    return {name: 1 / len(values) for name, values in attributes.items()}


def chance() -> dict[str, float]:
    """What uniform guessing scores, by name."""
    kept = guesses(UNNAMED)
    cp, pf, named = (float(np.mean(list(guesses(a).values()))) for a in (UNNAMED, CONTEXT, NAMED))
    expected = {"CP": cp, "CP_strict": prod(kept.values()), "PF": pf, "CPxPF": cp * pf, "named": named, **kept}
    return {name: round(value, 6) for name, value in expected.items()}


SCALE = Scale(
    names=("CP", "CP_strict", "PF", "CPxPF", "named"),
    headline="CPxPF",
    explained=(
        "CP, concept preservation, is the share of a subject's unnamed attributes that a recogniser reads correctly "
        "off the new picture. No prompt mentions these attributes; only the reference shows them. CP strict counts a "
        "picture only if all of them are right. PF, prompt following, is the share of what the prompt says of the "
        "context that the picture shows. CP × PF is the product of the two means. Named is the share of the "
        "attributes that the prompt names of the subject."
    ),
    unit="share of attributes",
    plotted=("CP", "PF", "CPxPF"),
    parts=tuple(UNNAMED),
    products={"CPxPF": ("CP", "PF")},
    chance=chance(),
    titles={"CP": "CP, concept preservation", "PF": "PF, prompt following"},
    by_kind=("PF",),
)
GRID_SCALE = GridScale(
    panel_names=("PF", "named"),
    pair_names=("agreement", "agreement_named"),
    pair_parts=tuple(SUBJECT),
    chance={
        "agreement": round(prod(guesses(UNNAMED).values()), 6),
        **{name: round(value, 4) for name, value in guesses(UNNAMED).items()},
    },
    titles={
        "PF": "PF of a panel",
        "named": "named attributes of a panel",
        "agreement": "panel pairs that agree on every unnamed attribute",
        "agreement_named": "panel pairs that agree on every named attribute",
    },
    groups={
        group: {name: len(values) for name, values in attributes.items()}
        for group, attributes in (("named", NAMED), ("unnamed", UNNAMED))
    },
)


class ToyboxMeasure:
    """CP and PF of pictures of the toybox."""

    scale = SCALE

    def __init__(self, recogniser: Recogniser) -> None:
        self.recogniser = recogniser
        self.grids = ToyboxGrids(recogniser)
        self.references: dict[str, tuple[Reading, str]] = {}  # by content: what is read on a reference, and its truth

    def objection(self, prompt: str, truth: str) -> str:
        """Why a picture of this prompt and truth cannot be scored; "" if it can."""
        return truth_objection(truth) or prompt_objection(prompt)

    def __call__(self, drawings: Sequence[Drawing]) -> list[Scores]:
        """Score every picture against its truth, or against what is read on its reference where none is known."""
        readings = read(self.recogniser, [drawing.picture for drawing in drawings])
        return [
            score(reading, truth_of(drawing.truth, reference), drawing.prompt)
            for drawing, reading, reference in zip(drawings, readings, self.read_references(drawings), strict=True)
        ]

    def read_references(self, drawings: Sequence[Drawing]) -> list[Reading]:
        """Read every drawing's reference; one that was read before is not read again."""
        keys = [content(drawing.reference) for drawing in drawings]
        fresh = {key: i for i, key in enumerate(keys) if key not in self.references}
        readings = read(self.recogniser, [drawings[i].reference for i in fresh.values()])
        for (key, i), reading in zip(fresh.items(), readings, strict=True):
            self.references[key] = reading, drawings[i].truth
        return [self.references[key][0] for key in keys]

    def self_check(self) -> SelfCheck | None:
        """The recogniser's accuracy on the references whose truth is known; None where there are none."""
        known = [(reading, truth_of(truth, reading)) for reading, truth in self.references.values() if truth]
        if not known:
            return None
        right = {name: float(np.mean([reading[name] == truth[name] for reading, truth in known])) for name in SUBJECT}
        numbers = {
            "num_references": len(known),
            "accuracy": round(float(np.mean(list(right.values()))), 4),
            "accuracy_of": {name: round(value, 4) for name, value in right.items()},
            "measured": dict(self.recogniser.measured),
        }
        return SelfCheck(numbers, describe_accuracy(numbers))


class ToyboxGrids:
    """What the panels of a grid show, and whether two of them show one subject.

    PF and named of a panel are as for pictures, against the panel's caption. Two panels agree (1) or not (0): on every
    unnamed attribute (agreement), on every named one (agreement_named), on each attribute of the subject.
    """

    scale = GRID_SCALE

    def __init__(self, recogniser: Recogniser) -> None:
        self.recogniser = recogniser

    def objection(self, caption: str) -> str:
        """Why a panel with this caption cannot be scored; "" if it can."""
        return prompt_objection(caption)

    def __call__(self, panels: Sequence[Sequence[Image.Image]], captions: Sequence[Sequence[str]]) -> list[GridScores]:
        """Score grids, each given by its panels and their captions, row by row."""
        readings = iter(read(self.recogniser, chain.from_iterable(panels)))
        return [
            grid_scores(list(islice(readings, len(grid))), said) for grid, said in zip(panels, captions, strict=True)
        ]


def read(recogniser: Recogniser, images: Iterable[Image.Image]) -> Sequence[Reading]:
    """Read every attribute off pictures of any mode."""
    return recogniser.read([image.convert("RGB") for image in images])


def content(image: Image.Image) -> str:
    """A name for a picture that depends on its pixels alone."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()[:16]


def truth_of(text: str, reference: Reading) -> Mapping[str, str]:
    """A job's truth, or what is read on the reference where it is ""."""
    return json.loads(text) if text else reference


def truth_objection(text: str) -> str:
    """Why a truth does not belong to the toybox; "" if it does or is empty."""
    try:
        truth = json.loads(text) if text else {}
    except ValueError as error:
        return f"truth {text!r} is not a JSON object ({error})"
    if not isinstance(truth, dict):
        return f"truth {text!r} is not a JSON object"
    if text and (absent := sorted(set(SUBJECT) - set(truth))):
        return f"truth lacks {', '.join(absent)}; leave it empty if it is not known"
    foreign = [f"{name}={truth[name]!r}" for name, values in SUBJECT.items() if text and truth[name] not in values]
    return f"truth is not of the toybox's world: {', '.join(foreign)}" if foreign else ""


def prompt_objection(prompt: str) -> str:
    """Why a prompt does not belong to the toybox; "" if it does."""
    if foreign := grammar.foreign_words(prompt):
        shown = ", ".join(dict.fromkeys(foreign[:4]))
        return f'the prompt "{prompt[:80]}" is not of the toybox\'s world, which does not know: {shown}'
    return "" if prompt.strip() else "the prompt is empty"


def score(reading: Reading, truth: Mapping[str, str], prompt: str) -> Scores:
    """Score one picture: what is read off it against its subject's true attributes and its prompt."""
    kept = {name: float(reading[name] == truth[name]) for name in UNNAMED}
    asked = {name: value for name, value in grammar.read(prompt).items() if name in CONTEXT}
    return {
        "CP": float(np.mean(list(kept.values()))),
        "CP_strict": min(kept.values()),
        "PF": share_right(reading, asked),
        "named": share_right(reading, {name: truth[name] for name in NAMED}),
        **kept,
    }


def share_right(reading: Reading, expected: Mapping[str, str]) -> float:
    """Share of the expected values that are read."""
    return float(np.mean([reading[name] == value for name, value in expected.items()]))


def grid_scores(readings: Sequence[Reading], said: Sequence[str]) -> GridScores:
    """Score one grid from what is read off its panels and what their captions say."""
    pairs = list(combinations(range(len(readings)), 2))
    return GridScores(
        panels=[panel_scores(reading, caption) for reading, caption in zip(readings, said, strict=True)],
        pairs={(i, j): pair_scores(readings[i], readings[j]) for i, j in pairs},
        same_subject={(i, j): agree(readings[i], readings[j], SUBJECT) for i, j in pairs},
        shown=list(readings),
    )


def panel_scores(reading: Reading, caption: str) -> Scores:
    """PF and named of one panel; a name of which the caption says nothing is left out."""
    said = grammar.read(caption)
    settled = {
        name: {key: value for key, value in said.items() if key in attributes}
        for name, attributes in (("PF", CONTEXT), ("named", NAMED))
    }
    return {name: share_right(reading, expected) for name, expected in settled.items() if expected}


def pair_scores(first: Reading, second: Reading) -> Scores:
    """1 where two panels agree, otherwise 0, by name."""
    groups = {"agreement": UNNAMED, "agreement_named": NAMED} | {name: {name: ()} for name in SUBJECT}
    return {name: float(agree(first, second, attributes)) for name, attributes in groups.items()}


def agree(first: Reading, second: Reading, attributes: Iterable[str]) -> bool:
    """Whether all these attributes are read the same."""
    return all(first[name] == second[name] for name in attributes)


def describe_accuracy(numbers: Mapping[str, Any]) -> str:
    """Put a recogniser's accuracy in sentences."""
    each = ", ".join(f"{name.replace('_', ' ')} {100 * value:.1f} %" for name, value in numbers["accuracy_of"].items())
    said = (
        f"The recogniser reads {100 * numbers['accuracy']:.1f} % of the attributes correctly off "
        f"{numbers['num_references']} references whose subject is known ({each})."
    )
    kinds = {"drawn": "as drawn", "vae": "through the VAE"}
    held_out = [f"{100 * found['mean']:.2f} % {kinds.get(kind, kind)}" for kind, found in numbers["measured"].items()]
    return f"{said} On held-out subjects: {' and '.join(held_out)}." if held_out else said
