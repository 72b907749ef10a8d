"""The toybox: a small world of critters in which identity can be measured.

A *subject* is a critter. A prompt names its colour and body. No prompt names its belly, headgear, headgear colour and
eyes, so only a picture shows them. A *context* is everything that may change from picture to picture. Both are rows of
integers, one index per attribute in the order of `SUBJECT` and `CONTEXT`.

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
# Most critters stand upright by day, the values that a caption may leave out, because copying a colour from one light
# into another is the hardest task in this world. The latent space (`code.py`) depends on these odds.
CONTEXT_WEIGHTS: Final = {"tilt": (0.7, 0.15, 0.15), "light": (0.7, 0.15, 0.15)}

NUM_SUBJECTS: Final = math.prod(map(len, SUBJECT.values()))
HELD_OUT_EVERY: Final = 10
ATTRIBUTES: Final = SUBJECT | CONTEXT


def subject_rows(ids: np.ndarray) -> np.ndarray:
    """Convert subject numbers (B,) in [0, NUM_SUBJECTS) to attribute indices (B, S)."""
    rows: np.ndarray = np.stack(np.unravel_index(ids, [len(v) for v in SUBJECT.values()]), axis=-1)
    return rows


def subject_numbers(rows: np.ndarray) -> np.ndarray:
    """Undo `subject_rows`: attribute indices (B, S) -> subject numbers (B,)."""
    numbers: np.ndarray = np.ravel_multi_index(tuple(np.asarray(rows).T), [len(v) for v in SUBJECT.values()])
    return numbers


def held_out(ids: np.ndarray) -> np.ndarray:
    """Tell which subjects are held out, (B,) -> (B,) bool: a tenth, spread evenly; nothing is trained on them."""
    mixed = np.asarray(ids, np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
    chosen: np.ndarray = (mixed >> np.uint64(7)) % np.uint64(HELD_OUT_EVERY) == 0
    return chosen


def subject_ids(split: str) -> np.ndarray:
    """List the subject numbers of "train" or "held_out", ascending."""
    ids = np.arange(NUM_SUBJECTS)
    chosen: np.ndarray = ids[held_out(ids) == (split == "held_out")]
    return chosen


def sample_subjects(rng: np.random.Generator, num: int, split: str = "train") -> np.ndarray:
    """Sample attribute indices (num, S), uniformly over the split."""
    return subject_rows(rng.choice(subject_ids(split), num))


def sample_contexts(rng: np.random.Generator, num: int) -> np.ndarray:
    """Sample attribute indices (num, C)."""
    columns = [rng.choice(len(values), num, p=CONTEXT_WEIGHTS.get(name)) for name, values in CONTEXT.items()]
    return np.stack(columns, axis=-1)


def words(row: np.ndarray, attributes: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Convert one row of indices to {attribute: word}."""
    return {name: values[int(index)] for (name, values), index in zip(attributes.items(), row, strict=True)}
