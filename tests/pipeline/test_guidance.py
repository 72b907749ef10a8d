"""Guidance on the released tiny transformer: which passes run, and that batching them changes nothing."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel

from dsd.models.canvas import Canvas
from dsd.models.conditional import load_transformer
from dsd.models.student import CanvasStudent, Conditions
from dsd.pipeline.guidance import Passes, Scales, guided

MODEL = Path(__file__).parents[1] / "data" / "published_tiny" / "dsd_model" / "transformer"


@pytest.fixture(scope="module")
def transformer() -> FluxTransformer2DModel:
    return load_transformer(MODEL).eval()


@pytest.fixture(scope="module")
def made(transformer) -> Passes:
    student = CanvasStudent(transformer, torch.float32)
    return Passes(student, Canvas(2, 4), guidance_scale=3.5, sigmas=torch.tensor([0.7, 0.2]))


def conditions(seed: int) -> Conditions:
    generator = torch.Generator().manual_seed(seed)
    shapes = (2, 8, 64), (2, 5, 32), (2, 32)
    cond_latents, *text = (torch.randn(shape, generator=generator) for shape in shapes)
    return Conditions(cond_latents, tuple(text))


NOISY = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(9))


@torch.no_grad()
@pytest.mark.parametrize(
    ("image_scale", "text_scale", "passes"),
    [(1.0, 1.0, 1), (2.0, 2.0, 2), (1.0, 3.0, 2), (1.5, 3.0, 3), (0.0, 0.0, 1), (1.0, 0.0, 1)],
)
@pytest.mark.parametrize("batched", [True, False])
def test_only_passes_that_count_are_run(transformer, made, image_scale, text_scale, passes, batched) -> None:
    full, no_text = conditions(1), conditions(2)
    no_text = Conditions(full.cond_latents, no_text.text)
    rows = []
    hook = transformer.register_forward_pre_hook(
        lambda _, arguments, named: rows.append(len(named["hidden_states"])), with_kwargs=True
    )
    velocity = guided(made, full, no_text, Scales(image_scale, text_scale), batched)(NOISY, 1)
    hook.remove()
    assert rows == ([2 * passes] if batched else [2] * passes)

    nothing = Conditions(torch.zeros_like(full.cond_latents), no_text.text)
    v_both, v_image, v_none = (made.under(c)(NOISY, 1) for c in (full, no_text, nothing))
    expected = v_none + image_scale * (v_image - v_none) + text_scale * (v_both - v_image)
    torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=1e-5)


def test_the_coefficients_sum_to_one() -> None:
    for scales in ((1.0, 1.0), (2.0, 5.0), (0.0, 3.0)):
        assert sum(Scales(*scales).coefficients()) == pytest.approx(1)


@torch.no_grad()
@pytest.mark.parametrize("batched", [True, False])
def test_norm_balance_shortens_the_longer_difference(made, batched) -> None:
    """By SynCD's definition, written out: v(img,-) + (s_i - 1) d_img + s_t d_txt, both as long as the shorter."""
    full, other = conditions(1), conditions(2)
    no_text = Conditions(full.cond_latents, other.text)
    nothing = Conditions(torch.zeros_like(full.cond_latents), other.text)
    v_both, v_image, v_none = (made.under(c)(NOISY, 1) for c in (full, no_text, nothing))
    velocity = guided(made, full, no_text, Scales(2.0, 3.0, norm_balanced=True), batched)(NOISY, 1)
    for row in range(2):
        d_img, d_txt = v_image[row] - v_none[row], v_both[row] - v_image[row]
        shorter = min(d_img.norm(), d_txt.norm())
        expected = v_image[row] + d_img * shorter / d_img.norm() + 3 * d_txt * shorter / d_txt.norm()
        torch.testing.assert_close(velocity[row], expected, atol=1e-5, rtol=1e-4)
    plain = guided(made, full, no_text, Scales(1.0, 1.0, norm_balanced=True), batched)(NOISY, 1)
    torch.testing.assert_close(plain, v_both)
