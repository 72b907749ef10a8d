"""What a sample is, and what is computed of it."""

import numpy as np
import torch
from torch import Tensor

from dsd.flow import LogitNormalSigmas, UniformSigmas, shift_for_tokens, shift_sigmas
from dsd.models.canvas import Canvas
from dsd.models.student import Conditions
from dsd.train.data.batch import Batch
from dsd.train.data.sampling import EMPTY, Sampling, epoch_order
from dsd.train.loss import flow_loss, token_weights


class Drawn:
    """Pairs of random tensors, in buckets of 8 and 12 tokens."""

    def __init__(self, num: int = 5, in_second: int = 0) -> None:
        self.bucket_of = np.array([0] * (num - in_second) + [1] * in_second)
        self.positions = np.arange(num)
        self.captions = [(f"description {n}", f"instruction {n}") for n in range(num)]

    def drawn(self, rows: list[int]) -> Tensor:
        return torch.stack([self.draw(row, (8 + 4 * int(self.bucket_of[row]), 4)) for row in rows])

    def condition(self, rows: list[int]) -> Tensor:
        return torch.stack([self.draw(100 + row, (8 + 4 * int(self.bucket_of[row]), 4)) for row in rows])

    def negative(self, rows: list[int]) -> None:
        return None

    def text(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        seeds = [sum(caption.encode()) for caption in captions]
        return torch.stack([self.draw(s, (3, 6)) for s in seeds]), torch.stack([self.draw(s, (7,)) for s in seeds])

    @staticmethod
    def draw(seed: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampling(pairs: Drawn | None = None, **fields: float) -> Sampling:
    odds = {"text_dropout": 0.0, "condition_dropout": 0.0, "instruction_ratio": 0.5, "batch_size": 4} | fields
    return Sampling(pairs or Drawn(), (Canvas(2, 4), Canvas(2, 6)), 3, LogitNormalSigmas(shift=1.0), **odds)


def test_a_sample_is_a_function_of_its_position() -> None:
    drawn = sampling(text_dropout=0.3, condition_dropout=0.3)
    whole, parts = drawn.batch(range(8)), [drawn.batch([position]) for position in range(8)]
    for name in ("latents", "noise", "sigmas"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name
    stacked = Conditions.stack([part.conditions for part in parts])
    assert torch.equal(whole.conditions.cond_latents, stacked.cond_latents)
    assert all(map(torch.equal, whole.conditions.text, stacked.text))
    assert sorted(drawn.row(position) for position in range(5, 10)) == list(range(5))  # an epoch sees every pair


def test_a_step_has_one_size_and_an_epoch_every_pair() -> None:
    pairs = Drawn(num=11, in_second=3)
    drawn = sampling(pairs)
    steps = [[drawn.row(position) for position in range(step * 4, step * 4 + 4)] for step in range(3)]
    assert all(len({int(pairs.bucket_of[row]) for row in rows}) == 1 for rows in steps)
    assert {row for rows in steps for row in rows} == set(range(11))
    assert {drawn.batch(range(step * 4, step * 4 + 4)).latents.shape[1] for step in range(3)} == {8, 12}
    orders = [tuple(epoch_order((8, 3), 3, 4, epoch)) for epoch in range(3)]
    assert len(set(orders)) == 3


def test_dropout_is_the_empty_prompt_and_the_zero_latent() -> None:
    """Exactly what guidance's passes see at inference."""
    pairs = Drawn()
    nothing = sampling(pairs, text_dropout=1.0, condition_dropout=1.0).batch(range(4))
    embeds, pooled = pairs.text([EMPTY])
    assert torch.equal(nothing.conditions.text[0], embeds.expand(4, -1, -1))
    assert torch.equal(nothing.conditions.text[1], pooled.expand(4, -1))
    assert not nothing.conditions.cond_latents.any()
    half = sampling(pairs, text_dropout=0.5, condition_dropout=0.5).batch(range(400))
    no_text = (half.conditions.text[0] == embeds).all(-1).all(-1)
    no_condition = (half.conditions.cond_latents == 0).all(-1).all(-1)
    for share in (no_text, no_condition):
        assert 0.4 < share.float().mean() < 0.6
    assert 0.15 < (no_text & no_condition).float().mean() < 0.35  # independently


def test_captions_of_both_kinds_are_mixed() -> None:
    pairs = Drawn()
    for ratio, kind in ((0.0, 0), (1.0, 1)):
        drawn = sampling(pairs, instruction_ratio=ratio)
        words = [pairs.captions[drawn.row(position)][kind] for position in range(5)]
        assert torch.equal(drawn.batch(range(5)).conditions.text[0], pairs.text(words)[0])


def test_sigmas_shift_by_hand_or_by_tokens() -> None:
    for kind in (LogitNormalSigmas, UniformSigmas):
        plain, static, by_tokens = (
            kind(shift=shift)(1000, torch.Generator().manual_seed(0), 1024) for shift in (1.0, 3.0, None)
        )
        torch.testing.assert_close(static, shift_sigmas(plain, 3.0))
        torch.testing.assert_close(by_tokens, shift_sigmas(plain, shift_for_tokens(1024)))
        assert plain.mean() < by_tokens.mean() < static.mean()


class Told:
    """A student that predicts what it is told."""

    def __init__(self, velocity: Tensor) -> None:
        self.told = velocity

    def velocity(self, noisy_latents, sigmas, conditions, canvas, guidance_scale):  # type: ignore[no-untyped-def]
        self.noisy_latents, self.canvas, self.guidance_scale = noisy_latents, canvas, guidance_scale
        return self.told


def test_the_loss_is_the_error_of_the_velocity() -> None:
    batch = sampling().batch(range(4))
    truth = batch.noise - batch.latents
    mask = batch.canvas.target_mask()
    both, target = token_weights(mask, 1.0), token_weights(mask, 0.0)
    assert flow_loss(Told(truth), batch, 1.0, both).abs().max() == 0
    off = Told(truth + torch.where(mask, 0.0, 2.0)[:, None])  # wrong by 2 on the reference's tokens alone
    torch.testing.assert_close(flow_loss(off, batch, 1.0, both), torch.full((4,), 2.0))
    assert flow_loss(off, batch, 1.0, target).abs().max() < 1e-9


def test_the_student_sees_noise_at_its_sigma() -> None:
    ones = torch.ones(2, 8, 4)
    student = Told(ones)
    batch = Batch(
        Canvas(2, 4), ones, Conditions(ones, (ones, ones)), torch.zeros(2, 8, 4), torch.tensor([0.25, 1.0])
    )  # fmt: skip
    flow_loss(student, batch, 3.5, torch.ones(8))
    assert torch.equal(student.noisy_latents[:, 0, 0], torch.tensor([0.75, 0.0]))
    assert (student.canvas, student.guidance_scale) == (batch.canvas, 3.5)
