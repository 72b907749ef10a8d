"""P6 and P7: a plain training loop against ours, and the memory that was predicted against what was taken."""

from dataclasses import dataclass
from typing import Any

import torch

from dsd.models.adapter import trainable_parameters
from dsd.models.families.flux1 import FAMILY as FLUX1
from dsd.models.flops import lora_step_flops
from dsd.train.recompute import recompute_blocks
from gpu.report import reason_of
from gpu.setup import TRAINING, Setup
from gpu.sides import base_pipeline, twin
from gpu.steps import random_batch, stepper, trainable
from gpu.timing import allocated_gb, free, free_gb, in_turns, peak_gb

# GB that activations of one sample of 2,560 tokens take, compiled, where nothing is recomputed; counted on fake tensors
ACTIVATIONS = {128: 13.5, 512: 13.7}
STATES = 16  # bytes a trained number: itself, its gradient and Adam's two moments, in fp32


@dataclass(frozen=True)
class Case:
    """A rank, a micro-batch and a budget for activations in GB; None recomputes nothing."""

    rank: int
    micro_batch: int
    activation_gb: float | None

    def __str__(self) -> str:
        budget = "no budget" if self.activation_gb is None else f"{self.activation_gb:g} GB"
        return f"rank {self.rank}, micro-batch {self.micro_batch}, {budget}"

    @property
    def kept_gb(self) -> float:
        """Expect what activations take, compiled."""
        kept = self.micro_batch * ACTIVATIONS.get(self.rank, 0.0)
        return kept if self.activation_gb is None else min(kept, self.activation_gb)


# By what they settle, the first ones first: experiment/paper/train has rank 512, 2 samples and 26 GB.
CASES = (Case(128, 1, None), Case(512, 2, 26.0), Case(128, 2, 40.0), Case(512, 1, None), Case(128, 1, 8.0))
SMALL = (Case(4, 2, None), Case(16, 4, 0.0))  # of the toybox


def run(setup: Setup) -> None:
    """Measure the cases, those of one rank over one student, as long as there is time."""
    cases = SMALL if setup.small else CASES
    base = base_pipeline(setup.shape, setup.device, with_text=False).transformer
    for case in cases:
        try:
            one(setup, base, case)
        except Exception as error:  # of compilers and allocators, which have no common class
            setup.report.skip(f"training, {case}", reason_of(error))
        free(setup.device)


def one(setup: Setup, base: Any, case: Case) -> None:
    """Measure one case: both sides train the same tensors, each with its own optimiser."""
    report = setup.report
    plain = trainable(twin(base), setup.device, case.rank, "attention")
    ours = twin(plain)
    plain.enable_gradient_checkpointing()
    plain.train()
    num = sum(p.numel() for p in trainable_parameters(ours).values())
    wanted = (8 + STATES) * num / 1e9 + case.kept_gb  # both sides' states
    room = free_gb(setup.device)
    if room is not None and wanted > room:
        return report.skip(f"training, {case}", f"needs {wanted:.0f} GB beside the base, {room:.0f} GB are free")
    recomputed = 0
    if case.activation_gb is not None:
        tokens = setup.canvas.num_tokens
        recomputed = recompute_blocks(FLUX1, ours, case.activation_gb, case.micro_batch, tokens, setup.text)
    if setup.on_gpu:
        ours.compile_repeated_blocks()
    batch = random_batch(ours, case.micro_batch, setup.canvas, setup.text).to(setup.device)
    learnt = list(trainable_parameters(ours).values())
    sides = {
        "plain": stepper(plain, torch.optim.AdamW(learnt, lr=1e-5), batch),
        "ours": stepper(ours, torch.optim.AdamW(learnt, lr=1e-5, fused=True), batch),
    }
    flops = case.micro_batch * lora_step_flops(ours, setup.canvas.num_tokens, setup.text)
    expected = {side: flops / (TRAINING[side] * setup.peak) for side in sides}
    for side, value in expected.items():
        report.predict(f"step, {side}, {case}", "s", value)
    found = in_turns(sides, setup.device, setup.repeats, warm=2)
    memory = allocated_gb(setup.device) + case.kept_gb, peak_gb(sides["ours"], setup.device)
    for side, value in expected.items():
        goal = {"goal": "P6", "must": 0.40} if side == "ours" else {}
        report.write(name=f"step, {side}, {case}", unit="s", predicted=value, measured=found[side])
        mfu = flops / found[side] / setup.peak
        report.write(name=f"MFU, {side}, {case}", unit="of M", predicted=TRAINING[side], measured=mfu, **goal)
    report.write(
        name=f"plain / ours, {case}", unit="ratio", goal="P7", must=1.4, recomputed_blocks=recomputed,
        predicted=TRAINING["ours"] / TRAINING["plain"], measured=found["plain"] / found["ours"],
    )  # fmt: skip
    if memory[1] is None:
        return report.skip(f"peak memory, ours, {case}", "a CPU's allocator does not tell")
    report.write(name=f"peak memory, ours, {case}", unit="GB", predicted=memory[0], measured=memory[1])
