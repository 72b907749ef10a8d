"""P1, P2 and P4: the released schedule against ours, composed of forwards and checked by whole guided pictures."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from dsd.models.speed import Speed
from dsd.pipeline.guidance import Passes, Scales
from dsd.pipeline.pipeline import DSDPipeline
from gpu import released
from gpu.setup import SHARES, Setup, forward
from gpu.sides import students
from gpu.timing import allocated_gb, in_turns, seconds

GUIDED = Scales(1.5, 3.0)
TOLERANCE = 0.03  # between a composed and a whole picture


def fast(setup: Setup, pipeline: Any) -> None:
    """Prepare our side as `speed=exact` does for many pictures."""
    Speed("exact", True, setup.on_gpu, None, True, None)(pipeline, setup.device)
    pipeline.precompute = True


@torch.no_grad()
def run(setup: Setup) -> None:
    """Time single forwards of both sides in turns, then compose pictures of them."""
    report, rank = setup.report, 16 if setup.small else 128
    port, ours = students(setup.shape, setup.device, rank, with_text=False)
    fast(setup, ours)
    report.write(
        name="weights of both sides", unit="GB", predicted=None if setup.small else 29.7,
        measured=allocated_gb(setup.device),
    )  # fmt: skip
    flops = setup.flops(ours.transformer, setup.canvas.num_tokens)
    f = forwards(setup, port, ours, flops)
    compose(setup, f, sum(flops))
    whole(setup, port, ours, f)


def forwards(setup: Setup, port: DSDPipeline, ours: DSDPipeline, flops: tuple[float, float]) -> dict[str, float]:
    """Time a forward of the port, ours, ours with three passes at once, and what a picture computes beforehand."""
    report, prepared = setup.report, setup.prepared(ours)
    known, expect = ours.precomputed(), setup.expected
    expected = {"port": expect(flops, SHARES["port"]), "ours": expect(flops, SHARES["compiled"])}
    expected["ours, 3 passes"] = 3 * expected["ours"]
    for name, value in expected.items():
        report.predict(f"forward, {name}", "s", value)
    with ExitStack() as stack:
        stack.enter_context(known.at(ours.all_ids(prepared)))
        sigmas = prepared.timesteps / ours.scheduler.config.num_train_timesteps

        def beforehand() -> object:
            return Passes(ours.student, prepared.canvas, released.GUIDANCE, sigmas, known).under(prepared.full)

        sides: dict[str, Callable[[], object]] = {
            "port": forward(port, prepared, released.GUIDANCE),
            "ours": forward(ours, prepared, released.GUIDANCE, 1, known),
            "ours, 3 passes": forward(ours, prepared, released.GUIDANCE, 3, known),
        }
        found = in_turns(sides, setup.device, setup.repeats)
        difference = relative_l2(sides["port"](), sides["ours"]())
        found["beforehand"] = in_turns({"": beforehand}, setup.device, setup.repeats, warm=1)[""]
    for name, value in expected.items():
        mfu = (3 if "3" in name else 1) * sum(flops) / found[name] / setup.peak
        report.write(name=f"forward, {name}", unit="s", predicted=value, measured=found[name], mfu=mfu)
    report.write(name="port and ours, one forward", unit="relative L2", predicted=None, measured=difference)
    report.write(
        name="guidance one by one / batched", unit="ratio", predicted=1.06,
        measured=3 * found["ours"] / found["ours, 3 passes"],
    )  # fmt: skip
    return found


def relative_l2(expected: Any, got: Any) -> float:
    """Compare two velocities."""
    return float((got.float() - expected.float()).norm() / expected.float().norm())


def compose(setup: Setup, f: dict[str, float], flops: float) -> None:
    """Compose pictures of S steps: the first 2 take one pass, the other S - 2 one or, guided, three."""
    free, rest, share = min(released.FREE_STEPS, setup.steps), max(0, setup.steps - released.FREE_STEPS), SHARES
    f["port, one pass"], f["ours, one pass"] = setup.steps * f["port"], f["beforehand"] + setup.steps * f["ours"]
    f["port, guided"] = (free + 3 * rest) * f["port"]
    f["ours, guided"] = 2 * f["beforehand"] + free * f["ours"] + rest * f["ours, 3 passes"]
    expected = share["compiled"] / share["port"]
    for goal, case, must in (("P1", "one pass", 1.7), ("P2", "guided", 1.8)):
        ratio = f[f"port, {case}"] / f[f"ours, {case}"]
        setup.report.write(
            name=f"released / ours, {case}", goal=goal, must=must, unit="ratio", predicted=expected, measured=ratio,
            released_seconds=f[f"port, {case}"], our_seconds=f[f"ours, {case}"],
        )  # fmt: skip
    setup.report.write(
        name="MFU of the denoising loop, one pass", goal="P4", must=0.58, unit="of M", predicted=share["compiled"],
        measured=setup.steps * flops / f["ours, one pass"] / setup.peak,
    )  # fmt: skip


def whole(setup: Setup, port: DSDPipeline, ours: DSDPipeline, f: dict[str, float]) -> None:
    """Draw one whole guided picture a side; say whether the composed time is within 3 % of it."""

    def released_picture() -> object:
        return released.denoise(port, setup.prepared(port), GUIDED)

    def our_picture() -> object:
        prepared = setup.prepared(ours)
        return ours.denoise(
            prepared, released.GUIDANCE, GUIDED, released.FREE_STEPS, True, lambda step, timestep, latents: latents
        )

    for name, picture in (("port, guided", released_picture), ("ours, guided", our_picture)):
        took = setup.report.measure(f"whole picture, {name}", "s", f[name], partial(seconds, picture, setup.device))
        if took is not None:
            within = abs(took / f[name] - 1) <= TOLERANCE
            setup.report.write(
                name=f"whole / composed, {name}", unit="ratio", predicted=1.0, measured=took / f[name],
                within_3_percent=within,
            )  # fmt: skip
