"""What trains the toybox's models: the loop, the latent code, what a teacher is given."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from dsd.io.files import resolve
from dsd.models.loading import load_pipeline
from dsd.toybox import code
from dsd.toybox.fit import fit, learning_rate
from dsd.toybox.samples import sample_grids
from dsd.toybox.teacher import given_tokens
from dsd.toybox.vae import psnr

TEACHER = Path(resolve("pkg://dsd.toybox/weights/teacher"))


class Killed(Exception):
    pass


def train(folder: Path, kill_at: int = -1) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if step == kill_at:
            raise Killed
        points = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return (model(points) - points[:, :2]).square().mean(), {}

    fit(model, loss_at, folder, num_steps=30, lr=0.05, checkpoint_every=7, log_every=5)
    return model


def test_killed_and_run_again_is_unbroken(tmp_path) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "broken", kill_at=17)
    broken, unbroken = train(tmp_path / "broken"), train(tmp_path / "unbroken")
    assert torch.equal(broken.weight, unbroken.weight)
    lines = [json.loads(line) for line in (tmp_path / "broken" / "curve.jsonl").open()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30]
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_the_rate_warms_up_stays_and_falls() -> None:
    rates = [learning_rate(step, 10_000) for step in (0, 199, 5000, 9000, 9999)]
    assert rates == pytest.approx([1 / 200, 1, 1, 0.5, 1 / 2000])


def test_the_code_is_a_projection_of_unit_variance() -> None:
    pixels = sample_grids(np.random.default_rng(0), 64, "1x1", "different").pixels() * 2 - 1
    latents = code.encode(pixels)
    assert latents.shape == (64, 16, 8, 8)
    torch.testing.assert_close(code.encode(code.decode(latents)), latents, atol=1e-4, rtol=1e-4)
    assert latents.mean().abs() < 0.1
    assert 0.9 < latents.std() < 1.1


@torch.inference_mode()
def test_the_vae_speaks_the_code() -> None:
    vae = AutoencoderKL.from_pretrained(TEACHER / "vae").eval()
    pixels = sample_grids(np.random.default_rng(1), 8, "1x2", "different").pixels() * 2 - 1
    error = vae.encode(pixels).latent_dist.mode() - code.encode(pixels)
    assert error.square().mean().sqrt() < 0.1
    assert psnr(vae, pixels) > 25
    assert 10 * torch.log10(4 / (vae.decode(code.encode(pixels)).sample - pixels).square().mean()) > 25


def test_a_given_panel_is_whole_and_one_of_its_grid() -> None:
    given = given_tokens(torch.Generator().manual_seed(0), 200, "2x2").view(200, 2, 4, 2, 4).transpose(2, 3).flatten(3)
    panels = given.flatten(1, 2)
    assert ((panels.sum(-1) == 0) | (panels.sum(-1) == 16)).all()
    assert (panels.any(-1).sum(-1) <= 1).all()
    assert 0.4 < panels.any(-1).any(-1).float().mean() < 0.6
    assert not given_tokens(torch.Generator().manual_seed(0), 50, "1x1").any()


def test_no_path_of_a_machine_is_shipped() -> None:
    for file in TEACHER.parent.rglob("*.json"):
        assert not json.loads(file.read_text()).get("_name_or_path"), file


def test_the_teacher_is_small_and_a_flux() -> None:
    pipeline = load_pipeline("pkg://dsd.toybox/weights/teacher")
    assert type(pipeline).__name__ == "FluxPipeline"
    parts = (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert sum(p.numel() for part in parts for p in part.parameters()) < 12e6
    assert sum(file.stat().st_size for file in TEACHER.rglob("*") if file.is_file()) < 32e6
