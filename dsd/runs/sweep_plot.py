"""Plot the results of a sweep against what was swept."""

import re
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
    numeric = {key: found for key in keys if (found := numbers_of([s[key] for s in settings])) is not None}
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
            shown: Sequence[float | str] = numeric.get(x) or [s[x] for s in settings]
            points: list[Any] = [(shown[job], results[job][name]) for job in jobs if name in results[job]]
            if x in numeric:
                points.sort()
            axes.plot([p[0] for p in points], [p[1] for p in points], "o-", label=label)
        values = numeric.get(x, [0])
        if min(values) > 0 and max(values) >= 10 * min(values):
            axes.set_xscale("log")
        axes.set(xlabel=x, ylabel=name)
        axes.grid(alpha=0.3)
        if len(lines) > 1 and name == names[0]:
            axes.legend(fontsize="small")
    for axes in figure.axes[len(names) :]:
        axes.set_visible(False)
    return figure


def numbers_of(texts: Sequence[str]) -> list[float] | None:
    """Read texts as numbers, also "checkpoints/step-100" and "checkpoints/step-200", which differ in one number."""
    try:
        return [float(text) for text in texts]
    except ValueError:
        parts = [re.split(r"(\d+(?:\.\d+)?)", text) for text in texts]
    if len(set(map(len, parts))) > 1:
        return None
    differing = [i for i, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
    if len(differing) != 1 or differing[0] % 2 == 0:  # splitting leaves the numbers at odd places
        return None
    return [float(part[differing[0]]) for part in parts]
