"""Depth of two pictures by a genuine, tiny Depth Anything model."""

import numpy as np
import pytest
import skimage.data
from PIL import Image
from tiny_embeddings import tiny_depth

from dsd.errors import UserError
from dsd.geometry.depth import Depth


@pytest.fixture(scope="module")
def depth(tmp_path_factory: pytest.TempPathFactory) -> Depth:
    return Depth(str(tiny_depth(tmp_path_factory.mktemp("depth"))), device="cpu")


def test_a_picture_agrees_with_itself_and_less_with_its_mirror_image(depth) -> None:
    picture = Image.fromarray(skimage.data.astronaut()).resize((80, 60))
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    same, other = depth([picture, picture], [picture, mirrored])
    assert same["depth_agreement"] == pytest.approx(1)
    assert other["depth_agreement"] < 0.999


def test_a_map_has_the_size_of_its_picture_and_the_whole_range(depth) -> None:
    drawn = depth.depth_map(Image.fromarray(skimage.data.chelsea()).resize((90, 60)))
    assert (drawn.size, drawn.mode) == ((90, 60), "RGB")
    pixels = np.asarray(drawn)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_a_model_that_is_missing_is_one_line_that_names_the_setting(tmp_path) -> None:
    with pytest.raises(UserError, match=r"^geometry\.depth\.path=.*nowhere: cannot be loaded: [^\n]+$"):
        Depth(str(tmp_path / "nowhere"))


def test_pictures_of_two_sizes_cannot_be_compared(depth) -> None:
    with pytest.raises(UserError, match=r"pictures of 40x30 and 30x40 pixels cannot be compared"):
        depth([Image.new("RGB", (40, 30))], [Image.new("RGB", (30, 40))])
