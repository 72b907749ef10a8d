"""measure=face on a photograph with a face, embedded by real weights (of ImageNet: not a model of faces)."""

import pytest
import skimage.data
from PIL import Image, ImageEnhance

from dsd.metrics.face import NONE, FaceSimilarity
from dsd.metrics.measure import Drawing
from dsd.models.embeddings import TimmFeatures


@pytest.fixture(scope="module")
def measure(lite0) -> FaceSimilarity:
    return FaceSimilarity(TimmFeatures("face", "tf_efficientnet_lite0", str(lite0), device="cpu", head=True))


@pytest.fixture(scope="module")
def astronaut() -> Image.Image:
    return Image.fromarray(skimage.data.astronaut())


def test_the_largest_face_is_cut_out(measure, astronaut) -> None:
    face = measure.face(astronaut)
    assert 80 <= face.width == face.height <= 200
    large = measure.face(astronaut.resize((1024, 1024)))
    assert large.width == pytest.approx(2 * face.width, rel=0.15)


def test_a_face_in_another_light_is_nearer_than_a_cat(measure, astronaut) -> None:
    darker = ImageEnhance.Brightness(astronaut).enhance(0.8)
    scores = measure([Drawing(picture, astronaut, "a portrait") for picture in (astronaut, darker)])
    assert [row["face"] for row in scores] == pytest.approx([1, 1], abs=0.15)
    assert scores[1]["face"] < scores[0]["face"] == pytest.approx(1, abs=1e-5)
    assert [dict(row.missing) for row in scores] == [{}, {}]


def test_without_a_face_there_is_no_number(measure, astronaut) -> None:
    """Lost in the picture: missing, and counted. Absent from the reference: not measured."""
    cat = Image.fromarray(skimage.data.coffee())
    lost, absent = measure([Drawing(cat, astronaut, "a portrait"), Drawing(astronaut, cat, "a cup")])
    assert (dict(lost), lost.missing) == ({}, {"face": NONE})
    assert (dict(absent), absent.missing) == ({}, {})
