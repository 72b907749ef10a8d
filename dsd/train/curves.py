"""loss.png: the curves of a training."""

from pathlib import Path

from dsd.io.files import atomic
from dsd.metrics.plots import loss_figure
from dsd.train.journal import METRICS, VALIDATION, read_lines


def plot_curves(output_dir: Path) -> dict[str, float]:
    """Draw metrics.jsonl and validation.jsonl as loss.png; return the loss of the last tenth and the last measures."""
    lines = [line for line in read_lines(output_dir / METRICS) if line.get("loss") is not None]
    measured = read_lines(output_dir / VALIDATION)
    with atomic(output_dir / "loss.png") as temporary:
        loss_figure(lines, measured).savefig(temporary, dpi=120)
    tail = [line["loss"] for line in lines][-max(1, len(lines) // 10) :]
    last = {name: value for name, value in (measured[-1] if measured else {}).items() if name != "step"}
    loss = {"loss": round(sum(tail) / len(tail), 6)} if tail else {}  # none where metrics.jsonl was lost
    return {**loss, **last}
