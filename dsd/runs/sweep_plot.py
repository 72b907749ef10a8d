"""Plot the results of a sweep against what was swept."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from dsd.runs.settings import leaves

_PANELS = 9


def measured(manifest: dict[str, Any]) -> dict[str, float]:
    """List a run's results by dotted key: the fractional numbers of its manifest, without times and speeds."""
    found = leaves({name: value for name, value in manifest.items() if name != "counts"})
    return {k: v for k, v in found.items() if isinstance(v, float) and not k.endswith("second") and "seconds" not in k}


def plot(settings: Sequence[dict[str, str]], results: Sequence[dict[str, float]]) -> Figure:
    """Draw one plot a result, with a line for each combination of the other keys.

    The x axis is the swept number with the most values (a seed only where nothing else was swept), or the first key.
    """
    keys, names = list(settings[0]), list(dict.fromkeys(name for r in results for name in r))[:_PANELS]
    numeric = [key for key in keys if all(_number(s[key]) is not None for s in settings)]
    x = max(numeric, key=lambda key: (key != "seed", len({s[key] for s in settings})), default=keys[0])
    lines: dict[str, list[int]] = {}
    for job, s in enumerate(settings):
        label = ", ".join(f"{key.split('.')[-1]} {s[key]}" for key in keys if key != x)
        lines.setdefault(label, []).append(job)

    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(1 + 4 * columns, 3.4 * rows), layout="constrained")
    for axes, name in zip(figure.subplots(rows, columns, squeeze=False).flat, names):
        for label, jobs in lines.items():
            points = [(_number(settings[job][x]), settings[job][x], results[job][name]) for job in jobs
                      if name in results[job]]  # fmt: skip
            if x in numeric:
                points.sort()
            axes.plot([p[0] if x in numeric else p[1] for p in points], [p[2] for p in points], "o-", label=label)
        values = [_number(s[x]) or 0 for s in settings] if x in numeric else [0]
        if min(values) > 0 and max(values) >= 10 * min(values):
            axes.set_xscale("log")
        axes.set(xlabel=x, ylabel=name)
        axes.grid(alpha=0.3)
        if len(lines) > 1 and name == names[0]:
            axes.legend(fontsize="small")
    for axes in figure.axes[len(names) :]:
        axes.set_visible(False)
    return figure


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
