"""Train the networks that the toybox ships: `python -m dsd.toybox PART`, in the order below. Run again to resume.

`python -m dsd.toybox curves` draws their loss curves into docs/toybox_curves.png.
"""

import argparse
import json
from pathlib import Path

import torch

WEIGHTS = Path(__file__).parent / "weights"
PARTS = ("vae", "text", "teacher", "judge", "recogniser", "flux2-text", "flux2-teacher")


def main() -> None:
    """Train one part, or draw the curves of all."""
    parser = argparse.ArgumentParser(prog="python -m dsd.toybox", description=__doc__)
    parser.add_argument("part", choices=(*PARTS, "curves"))
    parser.add_argument("--num-steps", type=int, help="optimiser steps; by default as released")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the finished weights")
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/toybox"), help="folder of checkpoints and loss curves"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.part == "curves":
        return print(f"look at {draw_curves(arguments.work, Path('docs/toybox_curves.png'))}")
    if arguments.part == "vae":
        from dsd.toybox.vae import train_vae as train
    elif arguments.part == "text":
        from dsd.toybox.text import train_text as train
    elif arguments.part == "teacher":
        from dsd.toybox.teacher import train_teacher as train
    elif arguments.part == "judge":
        from dsd.toybox.judge import train_judge as train
    elif arguments.part == "recogniser":
        from dsd.toybox.recogniser import train_recogniser as train
    elif arguments.part == "flux2-text":
        from dsd.toybox.flux2 import train_text as train
    else:
        from dsd.toybox.flux2 import train_teacher as train
    steps = {} if arguments.num_steps is None else {"num_steps": arguments.num_steps}
    train(arguments.work / arguments.part, arguments.out, device=arguments.device, **steps)
    print(f"{arguments.part}: trained, in {arguments.out}")


def draw_curves(work: Path, picture: Path) -> Path:
    """Plot the loss of every part by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(19, 3), layout="constrained")
    for axes, part in zip(figure.subplots(1, len(PARTS)), PARTS, strict=True):
        curve = work / part / "curve.jsonl"
        lines = [json.loads(line) for line in curve.read_text().splitlines()] if curve.exists() else []
        steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
        axes.plot(steps, losses, lw=1)
        axes.set(title=f"{part}, {lines[-1]['seconds'] / 60:.0f} min" if lines else part, xlabel="step", ylabel="loss")
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, dpi=120)
    return picture


if __name__ == "__main__":
    main()
