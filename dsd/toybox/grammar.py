"""The grammar of the toybox: attribute indices -> text, and text -> the attributes that it names.

Captions name a critter's colour and body and its whole context; the unnamed attributes never appear (`describe_all`,
for training the judge, is the only exception). A caption that says nothing of tilt or light means upright, by day. What
asks for another light of a picture (`relight`) names the light alone.
"""

import re

import numpy as np

from dsd.toybox.world import CONTEXT, NAMED, SUBJECT, words

# Every wording of every value. The first is the plainest. A wording belongs to one value only.
NOUNS = ("critter", "creature", "monster")
WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "colour": {colour: (colour,) for colour in SUBJECT["colour"]},
    "body": {
        "round": ("round", "ball-shaped"),
        "square": ("square", "boxy"),
        "tall": ("tall", "slim"),
        "pointy": ("pointy", "cone-shaped"),
    },
    "scene": {
        "meadow": ("meadow", "grassland"),
        "beach": ("beach", "seaside"),
        "snow": ("snow", "winter"),
        "desert": ("desert", "dunes"),
        "city": ("city", "street"),
        "forest": ("forest", "woods"),
    },
    "position": {
        "left": ("on the left", "at left"),
        "middle": ("in the middle", "at centre"),
        "right": ("on the right", "at right"),
    },
    "size": {"small": ("small", "little"), "big": ("big", "large")},
    "tilt": {
        "upright": ("upright", ""),
        "leaning left": ("leaning left", "tilted left"),
        "leaning right": ("leaning right", "tilted right"),
    },
    "light": {
        "day": ("daylight", ""),
        "sunset": ("sunset", "evening"),
        "night": ("night", "moonlight"),
    },
}
TAGS = {
    "1x2": ("[LEFT]", "[RIGHT]"),
    "2x2": ("[TOP-LEFT]", "[TOP-RIGHT]", "[BOTTOM-LEFT]", "[BOTTOM-RIGHT]"),
}
COUNTS = {"1x2": "two", "2x2": "four"}


def say(rng: np.random.Generator, values: dict[str, str]) -> dict[str, str]:
    """Choose a wording for every value."""
    return {name: str(rng.choice(WORDINGS[name][value])) for name, value in values.items()}


def subject(rng: np.random.Generator, row: np.ndarray) -> str:
    """Say what a prompt says of a subject, from attribute indices (S,): "red round critter"."""
    said = say(rng, {name: word for name, word in words(row, SUBJECT).items() if name in NAMED})
    return f"{said['colour']} {said['body']} {rng.choice(NOUNS)}"


def context(rng: np.random.Generator, row: np.ndarray, comma: str = ", ") -> str:
    """Say a context, from attribute indices (C,): "big, leaning left, on the right, meadow, night"."""
    said = say(rng, words(row, CONTEXT))
    parts = [said[name] for name in ("size", "tilt", "position", "scene", "light") if said[name]]
    return comma.join(parts)


def panel(rng: np.random.Generator, subject_row: np.ndarray, context_row: np.ndarray) -> str:
    """Write the caption of one picture, in one of two orders."""
    who, where = subject(rng, subject_row), context(rng, context_row)
    return f"a {who}, {where}" if rng.random() < 0.7 else f"{where}: a {who}"


RELIT = "the same picture, only the light changes"


def relight(light: str) -> str:
    """Ask for a picture in another light, in any wording: "the same picture, only the light changes: moonlight"."""
    return f"{RELIT}: {light}"


def lights(value: str) -> list[str]:
    """List the wordings of a light that can be asked for."""
    return [wording for wording in WORDINGS["light"][value] if wording]


def grid(rng: np.random.Generator, layout: str, relation: str, subjects: np.ndarray, contexts: np.ndarray) -> str:
    """Write the prompt of a grid of subjects (P, S) and contexts (P, C): a summary, then each panel after its tag."""
    if layout == "1x1":
        return panel(rng, subjects[0], contexts[0])
    count, tags = COUNTS[layout], TAGS[layout]
    if relation == "different":
        panels = [f"{subject(rng, s)} {context(rng, c, ' ')}" for s, c in zip(subjects, contexts, strict=True)]
        head = f"{count} panels of different critters."
    else:
        panels = [context(rng, row, " ") for row in contexts]
        who = subject(rng, subjects[0])
        head = {
            "same": f"{count} panels of the same {who}.",
            "relight": f"{count} panels of the same picture of a {who}, only the light changes.",
        }[relation]
    return " ".join([head, *(f"{tag} {text}" for tag, text in zip(tags, panels, strict=True))])


def describe_all(
    rng: np.random.Generator,
    subject_row: np.ndarray,
    context_row: np.ndarray,
    keep: float = 1.0,
    keep_context: float = 1.0,
) -> str:
    """Write a judge's caption: it may name everything, each detail with probability `keep` (or `keep_context`)."""
    said = words(subject_row, SUBJECT)
    where = [part for part in context(rng, context_row).split(", ") if rng.random() < keep_context]
    details = {
        "belly": f"{said['belly']} belly",
        "headgear": said["headgear"],
        "headgear_colour": f"{said['headgear_colour']} headgear",
        "eyes": f"{said['eyes']} eyes",
    }
    who = [said[name] for name in NAMED if rng.random() < keep]
    kept = [text for text in details.values() if rng.random() < keep]
    rng.shuffle(kept)
    return " ".join(["a", *who, "critter", *(["with", ", ".join(kept)] if kept else []), *where])


# Words that a prompt may hold although they name no value.
PLAIN_WORDS = {
    *NOUNS,
    *re.findall(
        r"\w+",
        "a an the this that same show put place draw it its is stands sits with and at on in by of to now "
        "picture only light changes",
    ),
}


def _finder(name: str) -> dict[str, re.Pattern[str]]:
    """Make a pattern for every value that finds any of its wordings."""
    either = {value: "|".join(map(re.escape, filter(None, wordings))) for value, wordings in WORDINGS[name].items()}
    return {value: re.compile(rf"(?<![\w-])(?:{wordings})(?![\w-])") for value, wordings in either.items()}


FINDERS = {name: _finder(name) for name in WORDINGS}
_SILENT = {"tilt": "upright", "light": "day"}


def read(text: str) -> dict[str, str]:
    """Read every attribute that a caption settles, {attribute: value}; the inverse of `panel`.

    An attribute that the caption does not mention is absent, except tilt and light: silence means upright, by day. What
    asks for another light (`relight`) settles what it names and nothing else.
    """
    text, found = text.lower(), {}
    silent = {} if RELIT in text else _SILENT
    for name, finder in FINDERS.items():
        value = next((value for value, pattern in finder.items() if pattern.search(text)), silent.get(name))
        if value is not None:
            found[name] = value
    return found


def foreign_words(text: str) -> list[str]:
    """List the words of a caption that this world does not know, in order: "a red robot" -> ["robot"]."""
    left = text.lower()
    for finder in FINDERS.values():
        for pattern in finder.values():
            left = pattern.sub(" ", left)
    return [word for word in re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", left) if word not in PLAIN_WORDS]
