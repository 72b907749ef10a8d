"""The plot of an evaluation: the numbers of every arm."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dsd.evaluate.table import title
from dsd.metrics.plots import COLOURS, GREY, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def measures_figure(summary: Mapping[str, Any]) -> "Figure":
    """Plot every measure below the other; in each, a row for each arm with its numbers and their intervals."""
    from matplotlib.figure import Figure

    arms, measures = summary["arms"], summary["measures"]
    with styled():
        figure = Figure(figsize=(7.2, (0.9 + 0.62 * len(arms)) * len(measures)), layout="constrained")
        for axes, scale in zip(figure.subplots(len(measures), squeeze=False)[:, 0], measures.values(), strict=True):
            plot_arms(axes, arms, scale)
    return figure


def plot_arms(axes: "Axes", arms: Mapping[str, Any], scale: Mapping[str, Any]) -> None:
    """Plot one measure. Small dots are single runs, the dotted line is chance for the first name."""
    names = scale["plotted"] or scale["names"]
    if names[0] in scale["chance"]:
        axes.axvline(scale["chance"][names[0]], color=COLOURS[0], linestyle=":", linewidth=1.2, zorder=0,
                     label=f"{title(names[0])} by chance")  # fmt: skip
    for shift, name, colour in zip(np.linspace(-0.2, 0.2, len(names)), names, COLOURS, strict=False):
        plot_name(axes, arms, name, colour, np.arange(len(arms)) + shift)
    lowest = min(
        (arm[name]["low"] for arm in arms.values() for name in names if arm[name]["low"] is not None), default=0
    )
    axes.set(xlim=(min(0.0, lowest) - 0.02, 1.02), yticks=range(len(arms)), yticklabels=map(title, arms))
    axes.set_xlabel(scale["unit"])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(axis="x", color=GREY, alpha=0.2)
    axes.tick_params(length=0)
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def plot_name(axes: "Axes", arms: Mapping[str, Any], name: str, colour: str, rows: np.ndarray) -> None:
    """Plot one number of every arm with its interval, at the height that `rows` gives for each arm."""
    values = np.array([[np.nan if arm[name][k] is None else arm[name][k] for k in ("value", "low", "high")]
                       for arm in arms.values()])  # fmt: skip
    errors = np.abs(values[:, 1:] - values[:, :1]).T
    axes.errorbar(values[:, 0], rows, xerr=errors, fmt="o", color=colour, markersize=5, capsize=2.5, linewidth=1.4,
                  label=title(name))  # fmt: skip
    for row, arm in zip(rows, arms.values(), strict=True):
        seeds = [run[name] for run in arm["runs"].values() if run.get(name) is not None]
        if len(seeds) > 1:
            axes.plot(seeds, [row + 0.1] * len(seeds), ".", color=colour, markersize=4, alpha=0.5)
