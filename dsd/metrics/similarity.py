"""Similarity of a picture to its reference and to its prompt, by an embedding.

CLIP-I, DINO and CLIP-T of DreamBooth's evaluation (arXiv 2208.12242, section 4.2): cosines of unit vectors.
"""

from collections.abc import Sequence

from dsd.metrics.measure import Drawing, Scale, Scores
from dsd.models.embeddings import Features


class Similarity:
    """`<name>_image` against the reference; `<name>_text` against the prompt where the embedding reads text."""

    grids = None

    def __init__(self, features: Features) -> None:
        self.features = features
        image, text = f"{features.name}_image", f"{features.name}_text"
        names = (image, text) if features.knows_text else (image,)
        explained = f"{image} is the cosine between the embeddings of the picture and of its reference."
        if features.knows_text:
            explained += f" {text} is the cosine between those of the picture and of its prompt."
        by_kind = (text,) if features.knows_text else ()
        self.scale = Scale(names, headline=image, explained=explained, unit="cosine similarity", by_kind=by_kind)

    def objection(self, prompt: str, truth: str) -> str:
        """Nothing: an embedding takes any picture and any prompt."""
        return ""

    def __call__(self, drawings: Sequence[Drawing]) -> list[Scores]:
        """Score every picture by its cosines, in order."""
        drawn = self.features([drawing.picture for drawing in drawings])
        against = [self.features([drawing.reference for drawing in drawings])]
        if self.features.knows_text:
            against.append(self.features.text([drawing.prompt for drawing in drawings]))
        columns = [(drawn * other).sum(dim=1).tolist() for other in against]
        return [dict(zip(self.scale.names, row, strict=True)) for row in zip(*columns, strict=True)]

    def self_check(self) -> None:
        """Nothing is known of an embedding's accuracy."""
        return
