"""Grid prompts of one picture in several lights, for edits that move nothing."""

from typing import Any

import numpy as np

from dsd.data_gen.templates import (
    ON_SURFACES,
    TAGS,
    refuse_unknown_fields,
    subject_at,
    subjects_of,
    words,
)
from dsd.errors import UserError
from dsd.io.records import Prompt, layout_shape
from dsd.lights import lights
from dsd.runs.messages import did_you_mean


class LightPrompts:
    """Prompts that are a function of (seed, position): one subject in one place, each panel in another light.

    The lights of a grid are of one kind: light, time, weather, season, material or style; `kinds` chooses among them. A
    panel's caption is the phrase for its light and nothing else, as a user types it. `grid` is the template of the
    whole prompt, with {num}, {rows}, {columns}, {noun}, {subject}, {place}, {view}, {kind} and {panels}; `panel` is
    that of one panel in it, with {tag} and {light}.
    """

    def __init__(
        self,
        layout: str,
        seed: int,
        grid: str,
        panel: str,
        kinds: list[str] | None = None,
        categories: list[str] | None = None,
    ) -> None:
        self.rows, self.columns = layout_shape(layout)
        known = lights()
        for kind in kinds or ():
            if kind not in known:
                raise UserError(
                    f"prompts.kinds: {kind} is unknown{did_you_mean(kind, list(known))}; {', '.join(known)}"
                )
        self.layout, self.seed, self.grid, self.panel = layout, seed, grid, panel
        self.lights = {kind: list(known[kind].values()) for kind in kinds or known}
        self.subjects = subjects_of(categories)
        refuse_unknown_fields(self)

    def __call__(self, index: int) -> Prompt:
        """Write the prompt at a position."""
        noun, subject = subject_at(self.subjects, self.seed, index)
        rng, num = np.random.default_rng((self.seed, 1, index)), self.rows * self.columns
        contexts = words("contexts")
        fields: dict[str, Any] = {
            "num": num, "rows": self.rows, "columns": self.columns, "noun": noun, "subject": subject,
            "place": rng.choice(contexts["plain_surface" if noun in ON_SURFACES else "plain_place"]),
            "view": rng.choice(contexts["view"]), "kind": rng.choice(list(self.lights)),
        }  # fmt: skip
        phrases = [str(light) for light in rng.choice(self.lights[fields["kind"]], num, replace=False)]
        panels = [
            self.panel.format(tag=tag, light=light) for tag, light in zip(TAGS[self.layout], phrases, strict=True)
        ]
        return Prompt(
            index=index,
            prompt=" ".join(self.grid.format(panels=" ".join(panels), **fields).split()),
            layout=self.layout,
            panel_captions=phrases,
            subject=subject,
            relation="relight",
            source=f"list of lights, seed {self.seed}",
        )
