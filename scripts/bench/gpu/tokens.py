"""P14: a step of a student with reference tokens, its reference computed again or remembered (klein-4B's shape)."""

from functools import partial
from typing import Any

import torch

from dsd.models.canvas import Canvas
from dsd.models.families.flux2 import FAMILY as FLUX2
from dsd.models.kinds import make_student
from dsd.models.student import Conditions
from gpu.setup import SHARES, Setup
from gpu.sides import klein_transformer, twin
from gpu.timing import Call, in_turns


@torch.no_grad()
def run(setup: Setup) -> None:
    """Time both kinds of step, eager and compiled: 512 tokens drawn, as many of a reference and of text."""
    base: Any = klein_transformer(setup.shape, setup.device)
    canvas = Canvas(4, 4, panels=1) if setup.small else Canvas(16, 32, panels=1)
    num, text = canvas.num_tokens, setup.text
    both, cached = (setup.flops(base, tokens, FLUX2) for tokens in (2 * num, num))
    longer = 4 * (num + text) * num * FLUX2.width(base) * blocks(base)  # the drawn and the text see the reference
    expected = {"full": sum(both), "cached": sum(cached) + longer}
    for compiled in (False, True):
        how, sides = "compiled" if compiled else "eager", dict[str, Call]()
        for attention in ("full", "cached"):
            transformer = twin(base)
            student = make_student(FLUX2, "tokens", None, attention, transformer=transformer, dtype=setup.dtype)
            student.prepare(transformer)
            if compiled:
                setup.compile(transformer)
            drawn, reference = (setup.draw(1, num, FLUX2.channels(base)) for _ in range(2))
            conditions = Conditions(reference, (setup.draw(1, text, base.config.joint_attention_dim),))
            denoise, sigmas = student.denoiser(conditions, canvas, 1.0), torch.full((1,), 0.5).to(drawn)
            denoise(drawn, sigmas)  # looks at the reference
            sides[attention] = partial(denoise, drawn, sigmas)
        found = in_turns(sides, setup.device, setup.repeats)
        for name, flops in expected.items():
            share = SHARES["compiled" if compiled else "eager"]
            setup.report.write(
                name=f"step of klein, {name}, {how}", unit="s", predicted=flops / (share * setup.peak),
                measured=found[name], mfu=flops / found[name] / setup.peak,
            )  # fmt: skip
        setup.report.write(
            name=f"reference computed / remembered, {how}", unit="ratio", goal="P14", must=1.5,
            predicted=expected["full"] / expected["cached"], measured=found["full"] / found["cached"],
        )  # fmt: skip


def blocks(transformer: object) -> int:
    """Count the blocks of both kinds."""
    return sum(len(getattr(transformer, name)) for name in ("transformer_blocks", "single_transformer_blocks"))
