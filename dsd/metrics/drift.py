"""How far an edit that should move nothing has moved its reference, and what it changed beside the light.

For pictures in another light, time, weather, season, material or style, where the layout must stay. Nothing is known of
the truth: the reference itself is what the picture is held against.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from dsd.geometry.edges import Edges
from dsd.geometry.flow import Flow
from dsd.io.pictures import to_rgb
from dsd.metrics.measure import Drawing, Scale, Scores
from dsd.metrics.reflectance import ReflectanceDistance
from dsd.models.canvas import to_pixels

MOVED = (
    "drift is the median length of the optical flow from the reference to the picture, in pixels of the picture, and "
    "drift p95 its 95th percentile; light does not enter. edge F1 says how well the edges of both lie on each other."
)
REPAINTED = (
    " reflectance is a perceptual distance of both pictures after their light has been divided out: what was repainted."
)


class Drift:
    """`drift`, `drift_p95`, `edge_f1`, and `reflectance` where `features` names a network of timm, see there.

    A reference of another size is first cropped and scaled to the picture's, as inference does. So what an editor cuts
    off or zooms counts as drift. Of several references the first is meant.
    """

    grids = None

    def __init__(
        self,
        features: str | None = None,
        checkpoint: str | None = None,
        layers: Sequence[int] | None = None,
        device: str = "auto",
    ) -> None:
        """`checkpoint` and `layers` are the network's."""
        self.geometry = (Flow(), Edges())
        self.reflectance: ReflectanceDistance | None = None
        more: tuple[str, ...] = ()
        if features is not None:
            self.reflectance, more = ReflectanceDistance(features, checkpoint, layers, device=device), ("reflectance",)
        self.scale = Scale(
            ("drift", "drift_p95", "edge_f1", *more), headline="drift", explained=MOVED + (REPAINTED if more else ""),
            unit="pixels", units={"edge_f1": "F1 of edges", "reflectance": "distance of reflectance"},
            lower=("drift", "drift_p95", *more),
        )  # fmt: skip

    def objection(self, prompt: str, truth: str) -> str:
        """Nothing: any picture has a reference."""
        return ""

    def self_check(self) -> None:
        """Its precision on known shifts is a test of the geometry's, not known of these pictures."""
        return

    def __call__(self, drawings: Sequence[Drawing]) -> list[Scores]:
        """Score every picture, in order; a number that cannot be computed is missing."""
        pictures = [to_rgb(drawing.picture) for drawing in drawings]
        references = [
            fitted(drawing.reference, picture.size) for drawing, picture in zip(drawings, pictures, strict=True)
        ]
        rows: list[Scores] = [{} for _ in drawings]
        for geometry in self.geometry:
            for row, scores in zip(rows, geometry(references, pictures), strict=True):
                row.update(scores)
        if self.reflectance is not None:
            for row, reference, picture in zip(rows, references, pictures, strict=True):
                row["reflectance"] = self.reflectance(reference, picture)
        return rows


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Crop and scale a picture to (width, height), as inference fits a reference into its panel."""
    width, height = size
    pixels = (to_pixels(image, height, width, "crop") + 1) * 127.5
    return Image.fromarray(pixels.round().byte().permute(1, 2, 0).numpy().astype(np.uint8))
