"""loss.png: what a training logged and measured."""

import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from dsd.files import atomic

matplotlib.use("agg")


def plot_curves(output_dir: Path) -> dict[str, float]:
    """Draw metrics.jsonl and validation.jsonl as loss.png; returns the last tenth's loss and what was measured last."""

    def read(name: str) -> list[dict[str, float]]:
        file = output_dir / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    lines, measured = read("metrics.jsonl"), read("validation.jsonl")
    figure = Figure(figsize=(7, 4 if not measured else 7), layout="constrained")
    every = figure.subplots(2 if measured else 1, squeeze=False)[:, 0]
    every[0].plot([line["step"] for line in lines], [line["loss"] for line in lines], lw=1)
    every[0].set(ylabel="loss", title=str(output_dir))
    for name in (name for name in (measured[0] if measured else {}) if name != "step"):
        every[-1].plot([line["step"] for line in measured], [line[name] for line in measured], marker="o", label=name)
    if measured:
        every[-1].legend()
        every[-1].set(ylabel="validation")
    for axes in every:
        axes.grid(alpha=0.3)
        axes.set(xlabel="step")
    with atomic(output_dir / "loss.png") as temporary:
        figure.savefig(temporary, dpi=120)
    tail = [line["loss"] for line in lines][-max(1, len(lines) // 10) :]
    last = {name: value for name, value in (measured[-1] if measured else {}).items() if name != "step"}
    return {"loss": round(sum(tail) / len(tail), 6), **last}
