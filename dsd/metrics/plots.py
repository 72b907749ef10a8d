"""Plots that a training and an evaluation share. Greys that read on white and on black.

matplotlib is imported where a figure is drawn, and figures have no window: the host program's backend stays as it is.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#d9822b", "#3d7fc4", "#3f9a6b", "#9a5fb5", "#c4453d", "#7d8590")
BLUE, GREY = COLOURS[1], "#7d8590"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "dsd",  # the same figure gives the same bytes
}


def styled() -> AbstractContextManager[None]:
    """Use this project's style inside a `with`; matplotlib's own settings return afterwards."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


def loss_figure(metrics: Sequence[Mapping[str, float]], validation: Sequence[Mapping[str, float]] = ()) -> "Figure":
    """Plot every logged loss with its running mean; below it each number of the validations, if there are any.

    Lines of `metrics` hold `step` and `loss`; lines of `validation` hold `step` and numbers by name.
    """
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(7.2, 5.0 if validation else 2.4), layout="constrained")
        every = figure.subplots(2 if validation else 1, squeeze=False)[:, 0]
        plot_loss(every[0], metrics)
        if validation:
            plot_validation(every[1], validation)
        for axes in every:
            axes.set(xlabel="optimiser steps", xlim=(0, None))
            axes.grid(color=GREY, alpha=0.2)
            axes.tick_params(length=0)
    return figure


def plot_loss(axes: "Axes", metrics: Sequence[Mapping[str, float]]) -> None:
    """Plot every loss, and its running mean over a twentieth of the run."""
    steps = np.array([line["step"] for line in metrics])
    losses = np.array([line["loss"] for line in metrics], float)
    window = max(1, len(losses) // 20)
    sums = np.cumsum(np.insert(losses, 0, 0.0))
    axes.plot(steps, losses, color=BLUE, linewidth=0.8, alpha=0.35)
    axes.plot(steps[window - 1 :], (sums[window:] - sums[:-window]) / window, color=BLUE, linewidth=1.8)
    axes.set_ylabel("flow-matching loss")


def plot_validation(axes: "Axes", validation: Sequence[Mapping[str, float]]) -> None:
    """Plot each number by step; a number that is not finite leaves a gap."""
    names = dict.fromkeys(name for line in validation for name in line if name != "step")
    for name, colour in zip(names, COLOURS * len(names), strict=False):
        values = np.array([line.get(name, np.nan) for line in validation], float)
        values[~np.isfinite(values)] = np.nan
        axes.plot([line["step"] for line in validation], values, "o-", color=colour, markersize=4, label=name)
    axes.set_ylabel("validation")
    axes.legend(frameon=False, ncols=4)


def svg_uri(figure: "Figure") -> str:
    """Turn a figure into a data URI of an SVG with a transparent background."""
    buffer = BytesIO()
    with styled():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + b64encode(buffer.getvalue()).decode()
