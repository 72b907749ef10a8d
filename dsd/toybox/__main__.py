"""Trains the models that the toybox ships: `python -m dsd.toybox PART`. Run again to resume."""

import argparse
from pathlib import Path

import torch

WEIGHTS = Path(__file__).parent / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dsd.toybox", description=__doc__)
    parser.add_argument("part", choices=("vae", "text", "teacher", "judge", "recogniser"))
    parser.add_argument("--num-steps", type=int, help="default: as released")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the finished model goes")
    parser.add_argument("--work", type=Path, default=Path("outputs/toybox"), help="checkpoints and curves")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.part == "vae":
        from dsd.toybox.vae import train_vae as train
    elif arguments.part == "text":
        from dsd.toybox.text import train_text as train
    elif arguments.part == "teacher":
        from dsd.toybox.teacher import train_teacher as train
    elif arguments.part == "judge":
        from dsd.toybox.judge import train_judge as train
    else:
        from dsd.toybox.recogniser import train_recogniser as train
    steps = {} if arguments.num_steps is None else {"num_steps": arguments.num_steps}
    train(arguments.work / arguments.part, arguments.out, device=arguments.device, **steps)
    print(f"{arguments.part}: trained, in {arguments.out}")


if __name__ == "__main__":
    main()
