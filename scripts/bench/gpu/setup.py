"""What all sections share: the shape, the device, the report, and what arithmetic expects of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dsd.models.canvas import Canvas
from dsd.models.families import Family
from dsd.models.families.flux1 import FAMILY as FLUX1
from dsd.models.flops import forward_flops
from dsd.models.student import Conditions
from dsd.pipeline.guidance import Passes
from dsd.pipeline.pipeline import Prepared
from dsd.pipeline.precompute import Precomputed
from gpu.report import Report

# Shares of a matmul's rate that a forward is expected to reach, from published seconds of 28 steps of FLUX.1-dev on an
# H100, 1024^2: 7.89 with a LoRA that is not merged, 5.2 eager, 4.21 compiled, 2.97 compiled in fp8.
SHARES = {"port": 0.33, "eager": 0.50, "compiled": 0.62}
FP8_GAIN = 1.6  # of compiled linears
TRAINING = {"plain": 0.33, "ours": 0.45}  # of 103.6 TFLOP a sample and the like; the must of P6 is 0.40


@dataclass
class Setup:
    """One run."""

    shape: str  # flux_dev or toybox
    device: torch.device
    report: Report
    steps: int  # of a picture
    repeats: int  # of everything that is timed
    peak: float = 0.0  # FLOP/s of a large matmul, measured first

    @property
    def small(self) -> bool:
        """Whether this is the toybox."""
        return self.shape == "toybox"

    @property
    def on_gpu(self) -> bool:
        """Whether the device has what only GPUs have."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return torch.float32 if self.small else torch.bfloat16

    @property
    def text(self) -> int:
        """Text tokens."""
        return 56 if self.small else 512

    @property
    def canvas(self) -> Canvas:
        """Two panels of 512 pixels (64 for the toybox)."""
        return Canvas(4, 8) if self.small else Canvas(32, 64)

    @property
    def grid(self) -> Canvas:
        """A sheet of 2 x 2 panels, as the teacher draws it."""
        return Canvas(8, 8, panels=1) if self.small else Canvas(64, 64, panels=1)

    def flops(self, transformer: Any, image_tokens: int, family: Family = FLUX1) -> tuple[float, float]:
        """Count one sample's forward with this setup's text: (matrices, attention)."""
        return forward_flops(transformer, image_tokens, self.text, family)

    def expected(self, flops: tuple[float, float], share: float, linears: float = 1.0) -> float:
        """Expect the seconds of a forward at a share of the matmul's rate; fp8 speeds the linears alone."""
        matrices, attention = flops
        return (matrices / linears + attention) / (share * self.peak)

    def compile(self, transformer: Any, **options: Any) -> None:
        """Compile the blocks. A CPU only traces them, which shows that they can be compiled, in seconds."""
        if self.on_gpu:
            transformer.compile_repeated_blocks(fullgraph=True, **options)
        else:
            transformer.compile_repeated_blocks(fullgraph=True, backend="eager", dynamic=options.get("dynamic"))

    def draw(self, *shape: int) -> Tensor:
        """Draw numbers in the weights' dtype, the same every time."""
        return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device, self.dtype)

    def prepared(self, pipeline: Any) -> Prepared:
        """Make what a picture begins with, without asking encoders; the scheduler is set to its beginning."""
        canvas, config = self.canvas, pipeline.transformer.config
        latents, condition = (self.draw(1, canvas.num_tokens, config.out_channels) for _ in range(2))
        text = self.draw(1, self.text, config.joint_attention_dim), self.draw(1, config.pooled_projection_dim)
        empty = tuple(-part for part in text)
        timesteps = pipeline.family.timesteps(pipeline.scheduler, self.steps, canvas.num_tokens, self.device)
        return Prepared(latents, Conditions(condition, text), Conditions(condition, empty), canvas, timesteps)


def forward(
    pipeline: Any, prepared: Prepared, guidance: float, batch: int = 1, known: Precomputed | None = None
) -> Callable[[], Tensor]:
    """Make a function that runs one forward of a student as the sampling loop does, with `batch` passes at once.

    `known` is entered already.
    """
    sigmas = prepared.timesteps / pipeline.scheduler.config.num_train_timesteps
    conditions, noisy = Conditions.stack([prepared.full] * batch), prepared.latents.repeat(batch, 1, 1)
    velocity = Passes(pipeline.student, prepared.canvas, guidance, sigmas, known).under(conditions)
    return lambda: velocity(noisy, 0)
