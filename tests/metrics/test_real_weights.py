"""A similarity with real pretrained weights (efficientnet-lite0, ImageNet) on real photographs (scikit-image's)."""

from pathlib import Path

import pytest
import skimage.data
from efficientnet import lite0
from PIL import Image, ImageEnhance, ImageOps

from dsd.errors import UserError
from dsd.metrics.measure import Drawing
from dsd.metrics.similarity import Similarity
from dsd.models.embeddings import TimmFeatures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lite0(tmp_path_factory.mktemp("lite0"))


@pytest.fixture(scope="module")
def photographs() -> dict[str, Image.Image]:
    left, right, _ = skimage.data.stereo_motorcycle()
    names = ("astronaut", "chelsea", "coffee", "rocket")
    found = {name: Image.fromarray(getattr(skimage.data, name)()) for name in names}
    return found | {"motorcycle": Image.fromarray(left), "from the right": Image.fromarray(right)}


def seen_again(name: str, photographs: dict[str, Image.Image]) -> Image.Image:
    """The same object in another photograph: the second camera's, or mirrored, cropped and in another light."""
    if name == "motorcycle":
        return photographs["from the right"]
    picture = photographs[name]
    width, height = picture.size
    cropped = picture.crop((width // 8, height // 8, width - width // 10, height - height // 10))
    return ImageEnhance.Brightness(ImageOps.mirror(cropped)).enhance(0.8)


def test_the_same_object_twice_scores_above_two_objects(checkpoint: Path, photographs: dict[str, Image.Image]) -> None:
    measure = Similarity(TimmFeatures("lite0", "tf_efficientnet_lite0", str(checkpoint), device="cpu"))
    names = [name for name in photographs if name != "from the right"]
    again = {name: seen_again(name, photographs) for name in names}
    drawings = [Drawing(again[one], photographs[other], "") for one in names for other in names]
    scores = iter(row["lite0_image"] for row in measure(drawings))
    table = {one: {other: next(scores) for other in names} for one in names}
    for one in names:
        assert table[one][one] > 0.6
        assert table[one][one] > max(table[one][other] for other in names if other != one) + 0.2, table


def test_weights_that_cannot_be_loaded_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"features\.model=tf_efficientnet_lite0: cannot be loaded"):
        TimmFeatures("lite0", "tf_efficientnet_lite0", str(tmp_path / "broken.safetensors"))
    with pytest.raises(UserError, match="a safetensors file is needed"):
        TimmFeatures("lite0", "tf_efficientnet_lite0", str(tmp_path / "weights.pth"))
