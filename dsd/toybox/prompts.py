"""The toybox as a source of grid prompts, and as a teacher that makes no mistakes."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from dsd.io.records import Prompt, layout_shape
from dsd.toybox import grammar
from dsd.toybox.samples import Grids, sample_grids
from dsd.toybox.world import CONTEXT, SUBJECT, UNNAMED, held_out, subject_numbers


class ToyboxPrompts:
    """Grid prompts from the grammar; the prompt at position i is a function of (seed, i)."""

    def __init__(self, layout: str, relation: str, seed: int) -> None:
        layout_shape(layout)
        self.layout, self.relation, self.seed = layout, relation, seed

    def __call__(self, index: int) -> Prompt:
        """Write the prompt at a position."""
        rng = np.random.default_rng((self.seed, index))
        grids = sample_grids(rng, 1, self.layout, self.relation)
        (text,) = grids.prompts(rng)
        subjects = np.broadcast_to(grids.subjects[0], (len(grids.contexts[0]), len(SUBJECT)))
        panels = [grammar.panel(rng, s, c) for s, c in zip(subjects, grids.contexts[0], strict=True)]
        return Prompt(
            index=index,
            prompt=text,
            layout=self.layout,
            panel_captions=panels,
            subject=grammar.subject(rng, subjects[0]),
            relation=self.relation,
            source=f"toybox grammar, seed {self.seed}",
        )


class Oracle:
    """Draw what a prompt asks for with the world's own code; every unnamed detail is the same in all panels."""

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Nothing to prepare."""

    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Image.Image]:
        """Draw the grid of each prompt; its seed chooses the unnamed details."""
        return [self._draw(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _draw(self, prompt: Prompt, seed: int) -> Image.Image:
        rng = np.random.default_rng(seed)
        said = [grammar.read(text) for text in prompt.panel_captions]
        while True:  # until the subject is not held out
            drawn = {name: str(rng.choice(values)) for name, values in UNNAMED.items()}
            said = [panel | drawn for panel in said]
            subjects = np.array([[values.index(p[name]) for name, values in SUBJECT.items()] for p in said])
            if not held_out(subject_numbers(subjects)).any():
                break
        contexts = np.array([[values.index(p[name]) for name, values in CONTEXT.items()] for p in said])
        pixels = Grids(prompt.layout, prompt.relation, subjects[None], contexts[None]).pixels()[0]
        image: Image.Image = to_pil_image((pixels * 255).round().to(torch.uint8))
        return image
