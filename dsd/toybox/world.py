"""The toybox: a small world of critters in which identity can be measured.

A *subject* is a critter. A prompt names its colour and body; its belly, headgear, headgear colour and eyes are never
written in a prompt, so only a picture carries them. A *context* is everything that may change from picture to picture.
Both are rows of integers, one index per attribute in the order of `SUBJECT` and `CONTEXT`.

Shapes: B batch, S = len(SUBJECT), C = len(CONTEXT).
"""

import math
from typing import Final

import numpy as np

COLOURS: Final = {
    "red": (226, 58, 62),
    "orange": (247, 146, 38),
    "yellow": (252, 222, 66),
    "green": (72, 176, 80),
    "blue": (58, 112, 226),
    "purple": (144, 76, 200),
    "pink": (252, 152, 192),
    "white": (247, 247, 242),
}

NAMED: Final = {
    "colour": tuple(COLOURS),
    "body": ("round", "square", "tall", "pointy"),
}
UNNAMED: Final = {
    "belly": tuple(COLOURS),
    "headgear": ("top hat", "party hat", "horns", "bunny ears", "bow"),
    "headgear_colour": tuple(COLOURS),
    "eyes": ("one", "two", "three"),
}
SUBJECT: Final = NAMED | UNNAMED
CONTEXT: Final = {
    "scene": ("meadow", "beach", "snow", "desert", "city", "forest"),
    "position": ("left", "middle", "right"),
    "size": ("small", "big"),
    "tilt": ("upright", "leaning left", "leaning right"),
    "light": ("day", "sunset", "night"),
}
# Most pictures stand upright and show daylight, the values that a caption may leave out: copying a colour from one
# light into another is the hardest thing in this world. The latent space (`code.py`) follows from these odds.
CONTEXT_WEIGHTS: Final = {"tilt": (0.7, 0.15, 0.15), "light": (0.7, 0.15, 0.15)}

NUM_SUBJECTS: Final = math.prod(map(len, SUBJECT.values()))
HELD_OUT_EVERY: Final = 10
ATTRIBUTES: Final = SUBJECT | CONTEXT


def subject_rows(ids: np.ndarray) -> np.ndarray:
    """Subject numbers (B,) in [0, NUM_SUBJECTS) -> attribute indices (B, S)."""
    return np.stack(np.unravel_index(ids, [len(values) for values in SUBJECT.values()]), axis=-1)


def subject_numbers(rows: np.ndarray) -> np.ndarray:
    """The inverse of `subject_rows`: (B, S) -> (B,)."""
    return np.ravel_multi_index(tuple(np.asarray(rows).T), [len(values) for values in SUBJECT.values()])


def held_out(ids: np.ndarray) -> np.ndarray:
    """(B,) -> (B,) bool. A tenth of all subjects, spread evenly over every attribute; no model is trained on them."""
    mixed = np.asarray(ids, np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
    return (mixed >> np.uint64(7)) % np.uint64(HELD_OUT_EVERY) == 0


def subject_ids(split: str) -> np.ndarray:
    """All subject numbers of `"train"` or `"held_out"`, ascending."""
    ids = np.arange(NUM_SUBJECTS)
    return ids[held_out(ids) == (split == "held_out")]


def sample_subjects(rng: np.random.Generator, num: int, split: str = "train") -> np.ndarray:
    """(num, S) attribute indices, uniform over the split."""
    return subject_rows(rng.choice(subject_ids(split), num))


def sample_contexts(rng: np.random.Generator, num: int) -> np.ndarray:
    """(num, C) attribute indices."""
    columns = [rng.choice(len(values), num, p=CONTEXT_WEIGHTS.get(name)) for name, values in CONTEXT.items()]
    return np.stack(columns, axis=-1)


def words(row: np.ndarray, attributes: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """One row of indices -> {attribute: word}."""
    return {name: values[int(index)] for (name, values), index in zip(attributes.items(), row, strict=True)}
