"""Sheets of panels: what is on them, how they look, and the prompt that asks for them.

P panels a sheet. Relations: `same` (one subject, a context each), `different` (a subject and a context each),
`relight` (one picture under different lights).
"""

from dataclasses import dataclass

import numpy as np
from einops import rearrange
from torch import Tensor

from dsd.toybox import captions
from dsd.toybox.draw import render
from dsd.toybox.world import CONTEXT, sample_contexts, sample_subjects

LAYOUTS = {"1x1": (1, 1), "1x2": (1, 2), "2x2": (2, 2)}


@dataclass(frozen=True)
class Sheets:
    """B sheets of one layout."""

    layout: str
    relation: str
    subjects: np.ndarray  # (B, P, S)
    contexts: np.ndarray  # (B, P, C)

    def pixels(self) -> Tensor:
        """(B, 3, rows x 64, columns x 64) in [0, 1]."""
        panels = render(rearrange(self.subjects, "b p s -> (b p) s"), rearrange(self.contexts, "b p c -> (b p) c"))
        rows, columns = LAYOUTS[self.layout]
        return rearrange(panels, "(b r k) c h w -> b c (r h) (k w)", r=rows, k=columns)

    def prompts(self, rng: np.random.Generator) -> list[str]:
        rows = zip(self.subjects, self.contexts, strict=True)
        return [captions.sheet(rng, self.layout, self.relation, subjects, contexts) for subjects, contexts in rows]


def sample_sheets(rng: np.random.Generator, num: int, layout: str, relation: str, split: str = "train") -> Sheets:
    """`num` random sheets; with one subject for each sheet unless they are to differ."""
    panels = int(np.prod(LAYOUTS[layout]))
    subjects = sample_subjects(rng, num * (panels if relation == "different" else 1), split)
    subjects = np.broadcast_to(subjects.reshape(num, -1, subjects.shape[-1]), (num, panels, subjects.shape[-1]))
    contexts = sample_contexts(rng, num * panels).reshape(num, panels, -1)
    if relation == "relight":
        contexts = np.repeat(contexts[:, :1], panels, axis=1)
        light = list(CONTEXT).index("light")
        for sheet in contexts:  # every panel another light, as far as there are lights
            order = rng.permutation(len(CONTEXT["light"]))
            sheet[:, light] = order[np.arange(panels) % len(order)]
    return Sheets(layout, relation, subjects, contexts)
