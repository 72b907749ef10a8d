"""Grid prompts without a language model: subjects and contexts of a list, filled into a template."""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

from dsd.data_gen.prompts import PromptSource
from dsd.errors import UserError
from dsd.io.records import RELATIONS, Prompt, layout_shape

TAGS = {
    "1x1": ["ONLY"],
    "1x2": ["LEFT", "RIGHT"],
    "2x1": ["TOP", "BOTTOM"],
    "2x2": ["TOP-LEFT", "TOP-RIGHT", "BOTTOM-LEFT", "BOTTOM-RIGHT"],
    "1x4": ["FIRST", "SECOND", "THIRD", "FOURTH"],
}
ON_SURFACES = ("logo",)  # categories shown on things, not in places


class TemplatePrompts:
    """Prompts that are a function of (seed, position). Every subject is used once before one is used again.

    `grid` is the template of the whole prompt, with {num}, {rows}, {columns}, {noun}, {subject}, {panels} and {style};
    `panel` is that of one panel in it, with {tag}, {subject}, {place}, {view} and {style}.
    """

    def __init__(
        self, layout: str, relation: str, seed: int, grid: str, panel: str, categories: list[str] | None = None
    ) -> None:
        self.rows, self.columns = layout_shape(layout)
        if relation not in RELATIONS:
            raise UserError(f"prompts.relation={relation}: choose one of {', '.join(RELATIONS)}")
        if relation == "relight":
            raise UserError("prompts.relation=relight: these prompts change the context; choose prompts=lights")
        self.layout, self.relation, self.seed, self.grid, self.panel = layout, relation, seed, grid, panel
        self.subjects = subjects_of(categories)
        refuse_unknown_fields(self)

    def __call__(self, index: int) -> Prompt:
        noun, subject = subject_at(self.subjects, self.seed, index)
        rng, num = np.random.default_rng((self.seed, 1, index)), self.rows * self.columns
        contexts = words("contexts")
        places = rng.choice(contexts["surface" if noun in ON_SURFACES else "place"], num, replace=False)
        views, style = rng.choice(contexts["view"], num, replace=False), str(rng.choice(contexts["style"]))
        fields: list[dict[str, Any]] = [
            {"tag": tag, "subject": subject, "place": place, "view": view, "style": style}
            for tag, place, view in zip(TAGS[self.layout], places, views, strict=True)
        ]
        panels = " ".join(self.panel.format(**field) for field in fields)
        text = self.grid.format(
            num=num, rows=self.rows, columns=self.columns, noun=noun, subject=subject, panels=panels, style=style
        )
        return Prompt(
            index=index,
            prompt=" ".join(text.split()),
            layout=self.layout,
            panel_captions=[f"{kind(subject)} {f['place']}, {f['view']}, {style}" for f in fields],
            subject=subject,
            relation=self.relation,
            source=f"list of subjects, seed {self.seed}",
        )


def subjects_of(categories: Sequence[str] | None) -> list[tuple[str, str]]:
    """List (category, subject); null is all categories. UserError names those that are unknown."""
    known = words("subjects")
    if unknown := set(categories or ()) - set(known):
        raise UserError(f"prompts.categories: unknown {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return [(noun, text) for noun in categories or known for text in known[noun]]


def subject_at(subjects: Sequence[tuple[str, str]], seed: int, index: int) -> tuple[str, str]:
    """Choose the subject of a position; every one is used once before one is used again."""
    turn, place_in_turn = divmod(index, len(subjects))
    order = np.random.default_rng((seed, 0, turn)).permutation(len(subjects))
    return subjects[int(order[place_in_turn])]


def refuse_unknown_fields(source: PromptSource) -> None:
    """Raise UserError where the templates of a source have a field that it does not fill in."""
    try:
        source(0)
    except (KeyError, IndexError) as error:
        raise UserError(f"prompts.grid or prompts.panel: unknown field {error}") from error


@cache
def words(name: str) -> dict[str, list[str]]:
    """Read `dsd/data_gen/words/<name>.yaml`: category -> phrases."""
    found: dict[str, list[str]] = yaml.safe_load(
        (files("dsd.data_gen") / "words" / f"{name}.yaml").read_text(encoding="utf-8")
    )
    return found


def kind(subject: str) -> str:
    """Take what a caption may say of a subject: "a teapot of blue porcelain with a mended spout" -> "a teapot"."""
    return re.split(r",| (?:with|in|of|shaped|made|whose|bound|split|trained|from|leaping) ", subject)[0]
