"""The plots: measures by arm, and the training's loss. Greys that read on white and on black."""

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from dsd.evaluate.table import TITLES, title

COLOURS = {"CP": "#d9822b", "PF": "#3d7fc4", "CPxPF": "#3f9a6b"}
GREY = "#7d8590"
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


def measures_figure(summary: dict[str, Any]) -> Figure:
    """A row an arm: CP, PF and their product with intervals; small dots are single runs, the dotted line is chance."""
    arms = summary["arms"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.9 + 0.62 * len(arms)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(
            summary["chance"]["CP"], color=COLOURS["CP"], linestyle=":", linewidth=1.2, zorder=0, label="CP by chance"
        )
        for shift, (name, colour) in zip((-0.2, 0.0, 0.2), COLOURS.items()):
            rows = np.arange(len(arms)) + shift
            values = np.array([[np.nan if arm[name][k] is None else arm[name][k] for k in ("value", "low", "high")]
                               for arm in arms.values()])  # fmt: skip
            errors = np.abs(values[:, 1:] - values[:, :1]).T
            axes.errorbar(values[:, 0], rows, xerr=errors, fmt="o", color=colour, markersize=5, capsize=2.5,
                          linewidth=1.4, label=TITLES[name])  # fmt: skip
            for row, arm in zip(rows, arms.values()):
                seeds = [run[name] for run in arm["runs"].values() if name in run]
                if len(seeds) > 1:
                    axes.plot(seeds, [row + 0.1] * len(seeds), ".", color=colour, markersize=4, alpha=0.5)
        axes.set(
            xlim=(-0.02, 1.02), yticks=range(len(arms)), yticklabels=map(title, arms), xlabel="share of attributes"
        )
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.grid(axis="x", color=GREY, alpha=0.2)
        axes.tick_params(length=0)
        axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return figure


def loss_figure(metrics: Sequence[dict[str, float]]) -> Figure:
    """Every logged loss, and its running mean over a twentieth of the run."""
    steps = np.array([line["step"] for line in metrics])
    losses = np.array([line["loss"] for line in metrics], float)
    window = max(1, len(losses) // 20)
    sums = np.cumsum(np.insert(losses, 0, 0.0))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.4), layout="constrained")
        axes = figure.subplots()
        axes.plot(steps, losses, color=COLOURS["PF"], linewidth=0.8, alpha=0.35)
        axes.plot(steps[window - 1 :], (sums[window:] - sums[:-window]) / window, color=COLOURS["PF"], linewidth=1.8)
        axes.set(xlabel="optimiser steps", ylabel="flow-matching loss", xlim=(0, None))
        axes.grid(color=GREY, alpha=0.2)
        axes.tick_params(length=0)
    return figure


def svg_uri(figure: Figure) -> str:
    """The figure as a data URI, its background transparent."""
    buffer = BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + b64encode(buffer.getvalue()).decode()
