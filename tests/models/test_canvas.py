"""Canvases: training and inference share their geometry, and any picture becomes what a person sees."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline
from PIL import Image

from dsd.errors import UserError
from dsd.models.canvas import (
    Canvas,
    canvas_of,
    pack,
    to_pixels,
    to_rgb,
    unpack,
)
from dsd.models.positions import grid
from dsd.models.student import CanvasStudent


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return AutoencoderKL.from_pretrained("tests/data/published_tiny/base/vae").eval()


@torch.no_grad()
def test_a_condition_is_the_reference_beside_black(vae: AutoencoderKL) -> None:
    references, student = torch.rand(2, 1, 3, 32, 48) * 2 - 1, CanvasStudent()
    black = torch.full_like(references[:, 0], -1.0)
    condition = student.condition(vae, references)
    assert torch.equal(condition, student.drawn(vae, references, black))
    assert condition.shape == (2, canvas_of(32, 48, 8).num_tokens, 64)


def test_the_target_stands_on_the_right() -> None:
    mask = Canvas(2, 4).target_mask().view(2, 4)
    assert mask.tolist() == [[False, False, True, True]] * 2


@pytest.mark.parametrize(("height", "width"), [(30, 32), (32, 40), (0, 32), (-16, 32)])
def test_sizes_that_do_not_divide_are_refused(height: int, width: int) -> None:
    with pytest.raises(UserError, match="multiples of 16"):
        canvas_of(height, width, 8)


def test_packing_and_ids_are_those_of_diffusers() -> None:
    """FLUX's own are private functions of diffusers' pipeline (seen in 0.36 to 0.42)."""
    latents = torch.randn(2, 16, 4, 6)
    tokens = FluxPipeline._pack_latents(latents, 2, 16, 4, 6)
    assert torch.equal(pack(latents), tokens)
    assert torch.equal(unpack(tokens, 2), latents)
    theirs = FluxPipeline._prepare_latent_image_ids(1, 2, 3, torch.device("cpu"), torch.float32)
    assert torch.equal(grid(2, 3), theirs)
    assert torch.equal(Canvas(2, 6).ids()[Canvas(2, 6).target_mask()], theirs + torch.tensor([0, 0, 3]))


def test_diagonal_positions_begin_where_the_target_ends() -> None:
    ids = Canvas(2, 4).ids("diagonal").view(2, 4, 3)
    assert ids[:, 2:, 1:].tolist() == [[[0, 0], [0, 1]], [[1, 0], [1, 1]]]
    assert ids[:, :2, 1:].tolist() == [[[2, 2], [2, 3]], [[3, 2], [3, 3]]]


@torch.no_grad()
def test_a_canvas_is_decoded_to_its_size(vae: AutoencoderKL) -> None:
    pixels, student = torch.rand(1, 3, 32, 48) * 2 - 1, CanvasStudent()
    decoded = student.family.decode(vae, student.drawn(vae, pixels[None], pixels), canvas_of(32, 48, 8).rows)
    assert decoded.shape == (1, 3, 32, 96)
    assert [panel.shape for panel in student.panels(decoded)] == [(1, 3, 32, 48)] * 2


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
