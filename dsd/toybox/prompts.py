"""The toybox as a source of grid prompts, and as a teacher that never errs."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from dsd.records import Prompt, layout_shape
from dsd.toybox import captions
from dsd.toybox.sheets import Sheets, sample_sheets
from dsd.toybox.world import CONTEXT, SUBJECT, UNNAMED, held_out, subject_numbers


class ToyboxPrompts:
    """Grid prompts from the grammar; position i's is a function of (seed, i)."""

    def __init__(self, layout: str, relation: str, seed: int) -> None:
        layout_shape(layout)
        self.layout, self.relation, self.seed = layout, relation, seed

    def __call__(self, index: int) -> Prompt:
        rng = np.random.default_rng((self.seed, index))
        sheets = sample_sheets(rng, 1, self.layout, self.relation)
        (text,) = sheets.prompts(rng)
        subjects = np.broadcast_to(sheets.subjects[0], (len(sheets.contexts[0]), len(SUBJECT)))
        panels = [captions.panel(rng, s, c) for s, c in zip(subjects, sheets.contexts[0], strict=True)]
        return Prompt(
            index=index,
            prompt=text,
            layout=self.layout,
            panel_captions=panels,
            subject=captions.subject(rng, subjects[0]),
            relation=self.relation,
            source=f"toybox grammar, seed {self.seed}",
        )


class Oracle:
    """Draws what a prompt asks for with the world's own code: every unnamed detail the same in all panels."""

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Nothing to prepare."""

    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Image.Image]:
        return [self._draw(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _draw(self, prompt: Prompt, seed: int) -> Image.Image:
        rng = np.random.default_rng(seed)
        said = [captions.read(text) for text in prompt.panel_captions]
        while True:  # until the draw is no held-out subject
            drawn = {name: str(rng.choice(values)) for name, values in UNNAMED.items()}
            said = [panel | drawn for panel in said]
            subjects = np.array([[values.index(p[name]) for name, values in SUBJECT.items()] for p in said])
            if not held_out(subject_numbers(subjects)).any():
                break
        contexts = np.array([[values.index(p[name]) for name, values in CONTEXT.items()] for p in said])
        pixels = Sheets(prompt.layout, prompt.relation, subjects[None], contexts[None]).pixels()[0]
        return to_pil_image((pixels * 255).round().to(torch.uint8))
