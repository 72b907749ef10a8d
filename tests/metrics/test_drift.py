"""Drift of a picture against its reference, on photographs that were shifted, scaled and lit by known amounts."""

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageEnhance

from dsd.metrics.drift import Drift, fitted
from dsd.metrics.measure import Drawing


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    return Image.fromarray(skimage.data.astronaut()).resize((240, 200))


def window(photograph: Image.Image, left: int, width: int = 192) -> Image.Image:
    return photograph.crop((left, 20, left + width, 20 + 160))


def drift_of(picture: Image.Image, reference: Image.Image) -> dict[str, float]:
    measure = Drift()
    (row,) = measure([Drawing(picture, reference, "dusk")])
    assert tuple(row) == measure.scale.names == ("drift", "drift_p95", "edge_f1")
    return row


@pytest.mark.parametrize("by", [0, 2, 8])
def test_a_shift_is_measured_in_any_light(photograph, by) -> None:
    picture = ImageEnhance.Brightness(window(photograph, 24 - by)).enhance(0.5)
    assert drift_of(picture, window(photograph, 24))["drift"] == pytest.approx(by, abs=0.4)


def test_a_reference_of_another_size_is_fitted_first(photograph) -> None:
    """Pixels are the picture's: twice as large, the same shift is twice as long. What is cropped does not count."""
    reference, moved = window(photograph, 24), window(photograph, 20)
    large = moved.resize((384, 320), Image.Resampling.LANCZOS)
    assert drift_of(large, reference)["drift"] == pytest.approx(8, abs=0.8)
    wide = Image.new("RGB", (232, 160), "white")
    wide.paste(moved, (20, 0))
    assert drift_of(moved, wide)["drift"] < 0.4
    assert np.array_equal(np.asarray(fitted(reference, reference.size)), np.asarray(reference))


def test_a_zoom_moves_the_rim_more_than_the_median(photograph) -> None:
    reference = window(photograph, 24)
    zoomed = reference.crop((10, 8, 182, 152)).resize(reference.size, Image.Resampling.LANCZOS)
    row = drift_of(zoomed, reference)
    assert row["drift_p95"] > row["drift"] > 2
    assert row["edge_f1"] < drift_of(reference, reference)["edge_f1"] == pytest.approx(1)


def test_less_is_better_but_for_edges() -> None:
    scale = Drift().scale
    assert (scale.headline, scale.lower, scale.units["edge_f1"]) == ("drift", ("drift", "drift_p95"), "F1 of edges")
