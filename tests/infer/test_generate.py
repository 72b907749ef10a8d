"""scripts/generate.py: the released flags give the released pictures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dsd.models.canvas import pack

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "published_tiny"
pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]


def generate(*arguments: object) -> subprocess.CompletedProcess:
    model = DATA / "dsd_model"
    command = [
        sys.executable, ROOT / "scripts" / "generate.py", "--model_path", model / "transformer", "--lora_path",
        model / "pytorch_lora_weights.safetensors", "--base_path", DATA / "base", "--device", "cpu",
        "--image_path", DATA / "reference.png", "--disable_gemini_prompt", *arguments,
    ]  # fmt: skip
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_the_released_command_gives_the_released_picture(tmp_path) -> None:
    """A seed means the noise of the whole canvas, drawn in fp32: case 1 began with that of seed 1."""
    noise = torch.randn(1, 16, 64, 128, generator=torch.Generator("cpu").manual_seed(1))
    began = load_file(DATA / "latents.safetensors")["initial_latents_1"]
    assert torch.equal(pack(noise), began)
    case = json.loads((DATA / "cases.json").read_text())[1]
    arguments = [
        "--text", case["text"], "--steps", case["steps"], "--guidance", case["guidance"],
        "--i_guidance", case["i_guidance"], "--t_guidance", case["t_guidance"], "--output_path", tmp_path / "a.png",
    ]  # fmt: skip
    done = generate(*arguments, "--seed", 1)
    assert done.returncode == 0, done.stderr
    ours = np.asarray(Image.open(tmp_path / "a.png"), np.int16)
    assert np.abs(ours - np.asarray(Image.open(DATA / "expected_1.png"), np.int16)).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text", " "], "--text is empty"),
        (["--text", "a", "--image_path", "none.png"], "no such file"),
        (["--text", "a", "--model_offload"], "moves weights to a GPU"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, words) -> None:
    done = generate("--output_path", tmp_path / "a.png", *arguments)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert not (tmp_path / "a.png").exists()
