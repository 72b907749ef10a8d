"""The pure parts of the node pack, without ComfyUI: they do what the pipeline does."""

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from servers import moved, openai_says, serve
from torch import Tensor

from dsd.infer.settings import EnhanceSettings
from dsd.models.canvas import to_pixels
from dsd.pipeline import guidance as ours

ROOT = Path(__file__).parents[2]
PACK = ROOT / "comfyui"


def part(name: str) -> ModuleType:
    """Import a file of the pack by itself: its __init__ needs ComfyUI."""
    full = f"dsd_node_pack_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, PACK / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(48, 32), (37, 81), (16, 16), (200, 33)])
def test_fitting_is_ours_to_the_pixel(fit, width, height) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    given = torch.from_numpy(pixels.astype(np.float32) / 255.0)  # as LoadImage does
    found = part("fit").fitted(given, 32, 48, fit)
    expected = ((to_pixels(Image.fromarray(pixels), 32, 48, fit) + 1) * 127.5).round().permute(1, 2, 0)
    assert torch.equal((found * 255).round(), expected)


def test_a_canvas_is_black_on_the_right_and_the_output_is_there() -> None:
    panel = torch.rand(2, 4, 6, 3)
    canvas = part("fit").canvas_of(panel)
    output, reference = part("fit").panels_of(canvas)
    assert torch.equal(reference, panel)
    assert not output.any()


def velocity(scales: Any, parts: list[Tensor]) -> Tensor:
    """Combine velocities as our guidance does."""
    if scales.norm_balanced and not scales.plain:
        return ours._balanced(scales)(parts)
    return ours._weighted(list(scales.coefficients()))(parts)


@pytest.mark.parametrize("norm_balanced", [False, True])
@pytest.mark.parametrize(("image", "text"), [(1, 1), (1.5, 1.5), (1, 2), (1.5, 2), (0, 3), (2, 0.5)])
def test_guidance_is_ours(image, text, norm_balanced) -> None:
    """The nodes combine denoised pictures, x - sigma v; we combine velocities."""
    generator, sigma = torch.Generator().manual_seed(0), 0.7
    noisy, *parts = (torch.randn(2, 16, 4, 8, generator=generator) for _ in range(4))
    expected = noisy - sigma * velocity(
        ours.Scales(image, text, norm_balanced), [p.flatten(1)[:, :, None] for p in parts]
    ).reshape(noisy.shape)
    asked: list[int] = []

    def passes(numbers: list[int]) -> list[Tensor]:
        asked.extend(numbers)
        return [noisy - sigma * parts[number] for number in numbers]

    theirs = part("guidance")
    found = theirs.guided(passes, theirs.Scales(image, text, norm_balanced))
    assert torch.allclose(found, expected, atol=1e-5)
    if image == text == 1:
        assert asked == [0], "one pass"
    elif image == text and not norm_balanced:
        assert asked == [0, 2], "two passes"


def test_the_first_steps_are_plain() -> None:
    sigmas = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
    is_plain = part("guidance").is_plain
    for num in range(6):
        assert [is_plain(float(sigma), sigmas, num) for sigma in sigmas[:-1]] == [step < num for step in range(4)]


def test_the_wording_is_that_of_dsd_infer() -> None:
    assert EnhanceSettings().describe == part("prompt").DESCRIBE
    assert EnhanceSettings().enrich == part("prompt").ENRICH


def test_the_pack_imports_nothing_of_ours_and_asks_for_no_package() -> None:
    for file in PACK.glob("*.py"):
        assert "import dsd" not in file.read_text()
        assert "from dsd" not in file.read_text()
    assert tomllib.loads((PACK / "pyproject.toml").read_text())["project"]["dependencies"] == []


def test_a_missing_key_is_one_line(monkeypatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(RuntimeError, match="set OPENAI_API_KEY"):
        part("prompt").enhanced(Image.new("RGB", (8, 8)), "beach", "openai", "any")


def test_a_prompt_is_enhanced_in_two_calls(monkeypatch) -> None:
    answers = iter(["a white critter", '"the white critter on a beach"'])
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serve(lambda body: (200, openai_says(next(answers)))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        found = part("prompt").enhanced(Image.new("RGB", (2000, 20)), "the critter on a beach", "openai", "any")
    assert found == "the white critter on a beach"
    (_, headers, first), (_, _, second) = server.requests
    assert headers["authorization"] == "Bearer secret"
    assert first["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert "a white critter" in second["messages"][0]["content"][0]["text"]


def test_a_key_is_not_sent_on_and_not_said(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serve(lambda body: (200, openai_says("stolen"))) as other, serve(lambda body: moved(other.url)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with pytest.raises(RuntimeError, match="answers 307") as told:
            part("prompt").enhanced(Image.new("RGB", (8, 8)), "beach", "openai", "any")
    assert not other.requests
    assert "secret" not in str(told.value)
