"""The plot of an evaluation: the numbers of every arm."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dsd.evaluate.table import column, title
from dsd.metrics.plots import COLOURS, GREY, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def measures_figure(summary: Mapping[str, Any]) -> "Figure":
    """Plot every measure below the other, each unit apart; a row for each arm with its numbers and their intervals."""
    from matplotlib.figure import Figure

    arms = summary["arms"]
    every = [(scale, *part) for scale in summary["measures"].values() for part in by_unit(scale).items()]
    with styled():
        figure = Figure(figsize=(7.2, (0.9 + 0.62 * len(arms)) * len(every)), layout="constrained")
        for axes, (scale, unit, names) in zip(figure.subplots(len(every), squeeze=False)[:, 0], every, strict=True):
            plot_arms(axes, arms, scale, names, unit)
    return figure


def by_unit(scale: Mapping[str, Any]) -> dict[str, list[str]]:
    """Sort the names that are plotted by what they count."""
    found: dict[str, list[str]] = {}
    for name in scale["plotted"] or scale["names"]:
        found.setdefault(scale["units"].get(name, scale["unit"]), []).append(name)
    return found


def plot_arms(axes: "Axes", arms: Mapping[str, Any], scale: Mapping[str, Any], names: Sequence[str], unit: str) -> None:
    """Plot numbers of one unit. Small dots are single runs, the dotted line is chance for the first name."""
    if names[0] in scale["chance"]:
        axes.axvline(scale["chance"][names[0]], color=COLOURS[0], linestyle=":", linewidth=1.2, zorder=0,
                     label=f"{title(names[0])} by chance")  # fmt: skip
    spread = 0.2 if len(names) > 1 else 0.0
    for shift, name, colour in zip(np.linspace(-spread, spread, len(names)), names, COLOURS, strict=False):
        plot_name(axes, arms, name, column(name, scale), colour, np.arange(len(arms)) + shift)
    ends = [arm[name][end] for arm in arms.values() for name in names for end in ("low", "high")]
    known = [end for end in ends if end is not None]
    low, high = min([0.0, *known]), max([1.0, *known])
    margin = 0.02 * (high - low)
    axes.set(xlim=(low - margin, high + margin), yticks=range(len(arms)), yticklabels=map(title, arms))
    axes.set_xlabel(unit)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(axis="x", color=GREY, alpha=0.2)
    axes.tick_params(length=0)
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def plot_name(axes: "Axes", arms: Mapping[str, Any], name: str, label: str, colour: str, rows: np.ndarray) -> None:
    """Plot one number of every arm with its interval, at the height that `rows` gives for each arm."""
    values = np.array([[np.nan if arm[name][k] is None else arm[name][k] for k in ("value", "low", "high")]
                       for arm in arms.values()])  # fmt: skip
    errors = np.abs(values[:, 1:] - values[:, :1]).T
    axes.errorbar(values[:, 0], rows, xerr=errors, fmt="o", color=colour, markersize=5, capsize=2.5, linewidth=1.4,
                  label=label)  # fmt: skip
    for row, arm in zip(rows, arms.values(), strict=True):
        seeds = [run[name] for run in arm["runs"].values() if run.get(name) is not None]
        if len(seeds) > 1:
            axes.plot(seeds, [row + 0.1] * len(seeds), ".", color=colour, markersize=4, alpha=0.5)
