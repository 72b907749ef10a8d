"""Measures of a student that is still being trained: `dsd-train` is given these by its config."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from dsd.evaluate.measures import score, truth_of
from dsd.evaluate.recogniser import Recogniser


class ToyboxMeasures:
    """CP and PF on the toybox, whose truth is known."""

    def __init__(self, recogniser: Recogniser) -> None:
        self.recogniser = recogniser

    def __call__(self, jobs: Sequence[Any], images: Sequence[Image.Image]) -> dict[str, float]:
        readings = self.recogniser.read(list(images))
        references = self.recogniser.read([job.picture() for job in jobs])
        scored = [
            score(reading, truth_of(job.truth, reference), job.prompt)
            for reading, reference, job in zip(readings, references, jobs, strict=True)
        ]
        cp, pf = (float(np.mean([row[name] for row in scored])) for name in ("CP", "PF"))
        return {"CP": cp, "PF": pf, "CPxPF": cp * pf}


class Similarity:
    """To the reference (`dinov2_image`, `clip_image`) and, where the embedding knows words, to the prompt.

    CLIP-I, DINO and CLIP-T of DreamBooth's evaluation (arXiv 2208.12242, section 4.2).
    """

    def __init__(self, features: Any) -> None:
        self.features = features

    def __call__(self, jobs: Sequence[Any], images: Sequence[Image.Image]) -> dict[str, float]:
        drawn = self.features(images)
        found = {"image": drawn * self.features([job.picture() for job in jobs])}
        if hasattr(self.features, "text"):
            found["text"] = drawn * self.features.text([job.prompt for job in jobs])
        return {f"{self.features.name}_{kind}": float(product.sum(dim=1).mean()) for kind, product in found.items()}
