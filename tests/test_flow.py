"""Identities of the path, and randomness as a function of position."""

import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from dsd.flow import (
    LogitNormalSigmas,
    UniformSigmas,
    add_noise,
    denoised,
    generator_at,
    seed_at,
    shift_for_tokens,
    shift_sigmas,
    velocity_target,
)


def test_a_velocity_leads_back_to_the_image() -> None:
    latents, noise, sigmas = torch.randn(3, 5, 4), torch.randn(3, 5, 4), torch.tensor([0.0, 0.4, 1.0])
    noisy = add_noise(latents, noise, sigmas)
    assert torch.equal(noisy[0], latents[0])
    assert torch.equal(noisy[2], noise[2])
    torch.testing.assert_close(denoised(noisy, velocity_target(latents, noise), sigmas), latents)


def test_the_shift_is_flux_own() -> None:
    for tokens in (32, 2048, 4096):
        assert abs(torch.tensor(shift_for_tokens(tokens)).log().item() - calculate_shift(tokens)) < 1e-6
    sigmas = torch.linspace(0, 1, 11)
    assert torch.equal(shift_sigmas(sigmas, 1.0), sigmas)
    assert (shift_sigmas(sigmas, 3.0)[1:-1] > sigmas[1:-1]).all()


def test_samplers_stay_between_image_and_noise() -> None:
    for sampler in (LogitNormalSigmas(shift=3.0), UniformSigmas()):
        sigmas = sampler(2000, torch.Generator().manual_seed(0), 256)
        assert sigmas.shape == (2000,)
        assert 0 < sigmas.min() < 0.3
        assert 0.9 < sigmas.max() < 1
    assert abs(LogitNormalSigmas()(4000, torch.Generator().manual_seed(0), 256).median() - 0.5) < 0.02


def test_a_seed_is_a_function_of_its_position() -> None:
    seeds = {seed_at(seed, *position) for seed in range(20) for position in ((0,), (1,), (0, 1), (1, 0))}
    assert len(seeds) == 80
    assert seed_at(3, 7) == seed_at(3, 7)
    released = torch.randn(4, generator=torch.Generator("cpu").manual_seed(5))
    assert torch.equal(torch.randn(4, generator=generator_at(5)), released)
