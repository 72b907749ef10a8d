"""Grids of panels: what is on them, how they look, and the prompt that asks for them.

Relations: `same` (one subject in several contexts), `different` (a subject and a context for each panel), `relight`
(one picture under several lights). B grids, P panels of each.
"""

from dataclasses import dataclass

import numpy as np
from einops import rearrange
from torch import Tensor

from dsd.toybox import grammar
from dsd.toybox.draw import render
from dsd.toybox.world import CONTEXT, sample_contexts, sample_subjects

LAYOUTS = {"1x1": (1, 1), "1x2": (1, 2), "2x2": (2, 2)}


@dataclass(frozen=True)
class Grids:
    """B grids of one layout."""

    layout: str
    relation: str
    subjects: np.ndarray  # (B, P, S)
    contexts: np.ndarray  # (B, P, C)

    def pixels(self) -> Tensor:
        """Draw the grids: (B, 3, rows x 64, columns x 64) in [0, 1]."""
        panels = render(rearrange(self.subjects, "b p s -> (b p) s"), rearrange(self.contexts, "b p c -> (b p) c"))
        rows, columns = LAYOUTS[self.layout]
        return rearrange(panels, "(b r k) c h w -> b c (r h) (k w)", r=rows, k=columns)

    def prompts(self, rng: np.random.Generator) -> list[str]:
        """Write the prompt of each grid."""
        rows = zip(self.subjects, self.contexts, strict=True)
        return [grammar.grid(rng, self.layout, self.relation, subjects, contexts) for subjects, contexts in rows]


def sample_grids(rng: np.random.Generator, num: int, layout: str, relation: str, split: str = "train") -> Grids:
    """Sample `num` grids; each shows one subject unless the relation is "different"."""
    panels = int(np.prod(LAYOUTS[layout]))
    subjects = sample_subjects(rng, num * (panels if relation == "different" else 1), split)
    subjects = np.broadcast_to(subjects.reshape(num, -1, subjects.shape[-1]), (num, panels, subjects.shape[-1]))
    contexts = sample_contexts(rng, num * panels).reshape(num, panels, -1)
    if relation == "relight":
        contexts = np.repeat(contexts[:, :1], panels, axis=1)
        light = list(CONTEXT).index("light")
        for grid in contexts:  # another light in every panel, as long as there are lights left
            order = rng.permutation(len(CONTEXT["light"]))
            grid[:, light] = order[np.arange(panels) % len(order)]
    return Grids(layout, relation, subjects, contexts)
