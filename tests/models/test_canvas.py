"""Canvases: training and inference share their geometry, and any picture becomes what a person sees."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from dsd.errors import UserError
from dsd.models.canvas import canvas_tokens, condition_canvas, target_canvas, target_mask, to_pixels, to_rgb


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained("tests/data/published_tiny/base/vae").eval()


@torch.no_grad()
def test_a_condition_is_the_reference_beside_black(vae: AutoencoderKL) -> None:
    references = torch.rand(2, 3, 32, 48) * 2 - 1
    black = torch.full_like(references, -1.0)
    assert torch.equal(condition_canvas(vae, references), target_canvas(vae, references, black))
    rows, columns = canvas_tokens(8, 32, 48)
    assert condition_canvas(vae, references).shape == (2, rows * columns, 64)


def test_the_target_stands_on_the_right() -> None:
    mask = target_mask(2, 4).view(2, 4)
    assert mask.tolist() == [[False, False, True, True]] * 2


@pytest.mark.parametrize(("height", "width"), [(30, 32), (32, 40), (0, 32), (-16, 32)])
def test_sizes_that_do_not_divide_are_refused(height: int, width: int) -> None:
    with pytest.raises(UserError, match="multiples of 16"):
        canvas_tokens(8, height, width)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_any_picture_fits_a_panel(fit: str) -> None:
    for size in ((1, 1), (640, 512), (33, 900)):
        pixels = to_pixels(Image.new("RGB", size, "red"), 32, 48, fit)
        assert pixels.shape == (3, 32, 48)
        assert pixels.min() >= -1
        assert pixels.max() <= 1


def test_modes_become_what_a_person_sees() -> None:
    assert to_rgb(Image.new("RGBA", (2, 2), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.full((2, 2), 65535, np.uint16))
    assert to_rgb(deep).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("CMYK", (2, 2), (0, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    turned = Image.new("RGB", (4, 2))
    turned.getexif()[0x0112] = 6  # a camera held upright
    assert to_rgb(turned).size == (2, 4)
