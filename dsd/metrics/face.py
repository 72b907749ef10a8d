"""Compare faces: the largest face of the picture with the largest face of the reference, by their embeddings.

Faces are found by the cascade of local binary patterns that scikit-image ships (OpenCV trained it). It finds upright
faces seen from the front. The box is cut out as it is; nothing aligns the eyes.
"""

from collections.abc import Sequence

import numpy as np
import skimage.data
from PIL import Image
from skimage.feature import Cascade

from dsd.io.pictures import to_rgb
from dsd.metrics.judges.ratings import Rated
from dsd.metrics.measure import Drawing, Scale
from dsd.models.embeddings import Features

SEARCHED = 512  # pixels; larger pictures are searched at this size
LEAST = 0.1  # of the shorter side: smaller faces are not looked for
NONE = "without a face"


class FaceSimilarity:
    """`face`: cosine of the embeddings of both faces.

    A reference without a face is not measured. A picture that lost the face of its reference has no number either, and
    is counted as missing: a 0 would say how alike two faces are.
    """

    grids = None

    def __init__(self, features: Features) -> None:
        self.features, self.cascade = features, Cascade(skimage.data.lbp_frontal_face_cascade_filename())
        self.scale = Scale(
            ("face",), headline="face",
            explained=(
                "face is the cosine between the embeddings of the largest face in the picture and in its reference. "
                "References without a face are left out; pictures without one are left out and counted."
            ),
            unit="cosine similarity",
        )  # fmt: skip

    def objection(self, prompt: str, truth: str) -> str:
        """Nothing: any picture may show a face."""
        return ""

    def __call__(self, drawings: Sequence[Drawing]) -> list[Rated]:
        """Score every picture, in order. Of several references the first is meant."""
        rows, both = [], []
        for drawing in drawings:
            row, reference = Rated(), self.face(drawing.reference)
            picture = self.face(drawing.picture) if reference is not None else None
            if reference is not None and picture is None:
                row.missing["face"] = NONE
            if reference is not None and picture is not None:
                both.append((row, reference, picture))
            rows.append(row)
        if both:
            faces = self.features([face for _, *pair in both for face in pair])
            for (row, *_), cosine in zip(both, (faces[::2] * faces[1::2]).sum(dim=1).tolist(), strict=True):
                row["face"] = cosine
        return rows

    def face(self, image: Image.Image) -> Image.Image | None:
        """Cut out the largest face; None where there is none."""
        image = to_rgb(image)
        searched = image.copy()
        searched.thumbnail((SEARCHED, SEARCHED))
        width, height = searched.size
        least = max(24, round(LEAST * min(width, height)))
        found = self.cascade.detect_multi_scale(
            img=np.asarray(searched), scale_factor=1.2, step_ratio=1, min_size=(least, least), max_size=(height, width)
        )
        if not found:
            return None
        box = max(found, key=lambda face: (face["width"], -face["r"], -face["c"]))
        scale = image.width / width
        corners = (box["c"], box["r"], box["c"] + box["width"], box["r"] + box["height"])
        left, top, right, bottom = (round(scale * corner) for corner in corners)
        return image.crop((left, top, min(right, image.width), min(bottom, image.height)))

    def self_check(self) -> None:
        """Nothing is known of the cascade's or the embedding's accuracy."""
        return
