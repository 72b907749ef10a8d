"""The distance without light, with real pretrained weights (efficientnet-lite0, ImageNet) on real photographs."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from dsd.errors import UserError
from dsd.metrics.reflectance import ReflectanceDistance, reflectance

MODEL = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def distance(lite0: Path) -> ReflectanceDistance:
    return ReflectanceDistance(MODEL, str(lite0), size=256, device="cpu")


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    found = (Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "chelsea", "coffee"))
    return [picture.resize((256, 192)) for picture in found]


def relit(picture: Image.Image) -> Image.Image:
    """Warm light from the left that fades to a third: a smooth product, as light is."""
    light = np.linspace(1.0, 0.33, picture.width)[None, :, None] * np.array([1.0, 0.85, 0.7])
    return Image.fromarray((np.asarray(picture) * light).round().astype(np.uint8))


def shifted(picture: Image.Image, by: int) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(picture), by, axis=1))


def test_light_is_taken_away() -> None:
    """Of a smooth product, the division leaves what it fell on; of a grey field, the middle."""
    picture = Image.fromarray(skimage.data.astronaut()).resize((256, 256))
    before = np.abs(np.asarray(picture, float) - np.asarray(relit(picture), float)).mean() / 255
    after = np.abs(reflectance(picture, 0.1) - reflectance(relit(picture), 0.1)).mean()
    assert after < 0.2 * before
    assert np.allclose(reflectance(Image.new("RGB", (32, 24), (90, 120, 30)), 0.1), 0.5)


def test_the_same_scene_in_another_light_is_nearer_than_any_other_picture(distance, photographs) -> None:
    for one in photographs:
        assert distance(one, one) == pytest.approx(0, abs=1e-6)
        in_light, moved = distance(one, relit(one)), distance(one, shifted(one, 16))
        others = [distance(one, other) for other in photographs if other is not one]
        assert in_light < 0.5 * moved < moved < min(others) <= 4, (in_light, moved, others)


def test_it_is_lpips_baseline(lite0, photographs) -> None:
    """Squared differences of unit vectors are twice one minus their cosine; chosen layers alone count."""
    ours = ReflectanceDistance(MODEL, str(lite0), layers=[1, 3], size=256, device="cpu")
    one, other = photographs[:2]
    pixels = torch.from_numpy(np.stack([reflectance(image, ours.sigma) for image in (one, other)]))
    with torch.inference_mode():
        inputs = ((pixels - ours.mean) / ours.std).permute(0, 3, 1, 2)
        _, features = ours.network.forward_intermediates(inputs)
    expected = [float((2 - 2 * cosine_similarity(*features[layer], dim=0)).mean()) for layer in (1, 3)]
    assert ours(one, other) == pytest.approx(np.mean(expected), rel=1e-4)


def test_a_network_that_cannot_serve_is_one_line(lite0, tmp_path) -> None:
    with pytest.raises(UserError, match=rf"features\.model={MODEL}, layers=\[9\]: gives no features"):
        ReflectanceDistance(MODEL, str(lite0), layers=[9], device="cpu")
    with pytest.raises(UserError, match="a safetensors file is needed"):
        ReflectanceDistance(MODEL, str(tmp_path / "weights.pth"), device="cpu")
