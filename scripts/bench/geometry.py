"""Precision and recall of every measure of geometry=, on photographs that were moved by known amounts and lit anew.

    python scripts/bench/geometry.py
    python scripts/bench/geometry.py --patches vit_small_patch14_dinov2.lvd142m       # needs the weights
    python scripts/bench/geometry.py --depth depth-anything/Depth-Anything-V2-Small-hf

A pair is good if nothing has moved, nothing was repainted, and the light is another. Bad pairs are shifted, zoomed,
flipped, swapped or repainted, in another light as well; or they show one light twice. Recall is the share of good pairs
that a measure keeps by its bounds. Precision is what it would be with as many bad pairs as good ones, each kind of bad
ones equally often.
"""

from dsd.runs.command import quiet

if __name__ == "__main__":
    quiet()  # before the libraries are imported

# isort: split
import argparse
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from dsd.curation.selection import Bounds
from dsd.geometry import Geometry
from dsd.geometry.depth import Depth
from dsd.geometry.edges import Edges
from dsd.geometry.flow import Flow
from dsd.geometry.light import LightChange
from dsd.geometry.patches import Patches
from dsd.geometry.residual import Residual
from dsd.io.files import write_json

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry")
SIZE = 256  # pixels a side
MARGIN = 16  # of the photograph around the picture: what a shift brings in is real
SHIFTS = (1, 2, 4, 8, 16)
ZOOMS = (1.02, 1.05, 1.1)
BOUNDS = {  # of a measure by itself
    "flow": Bounds({}, {"drift": 0.75, "drift_p95": 4}),
    "edges": Bounds({"edge_f1": 0.7}, {}),
    "residual": Bounds({}, {"residual": 60}),
    "light": Bounds({"light_change": 5}, {}),
    "patches": Bounds({"patch_matches": 0.9}, {}),
    "depth": Bounds({"depth_agreement": 0.9}, {}),
}
GOOD, ONE_LIGHT = "good", "one light twice"
Move = Callable[[Image.Image, Image.Image], Image.Image]  # (photograph, another one) -> the second picture


@dataclass(frozen=True)
class Pair:
    """Two pictures, and what was done to the second one."""

    first: Image.Image
    second: Image.Image
    move: str

    @property
    def good(self) -> bool:
        return self.move == GOOD


def photographs(num: int) -> list[Image.Image]:
    """Photographs that come with scikit-image, with a margin around the middle."""
    found = {name: getattr(skimage.data, name)() for name in PHOTOGRAPHS[:num]}
    side = SIZE + 2 * MARGIN
    whole = []
    for pixels in found.values():
        image = Image.fromarray(pixels)
        scale = side / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        whole.append(image.crop((left, top, left + side, top + side)))
    return whole


def window(image: Image.Image, right: float = 0, down: float = 0, zoom: float = 1.0) -> Image.Image:
    """Cut a picture out of a photograph: shifted by pixels, or the middle larger."""
    half = SIZE / 2 / zoom
    x, y = image.width / 2 - right, image.height / 2 - down
    box = (x - half, y - half, x + half, y + half)
    return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)


def repainted(image: Image.Image, other: Image.Image) -> Image.Image:
    """Put another thing into the middle of a picture, a quarter as wide."""
    start, stop = SIZE * 3 // 8, SIZE * 5 // 8
    image.paste(other.crop((start, start, stop, stop)), (start, start))
    return image


def moves() -> dict[str, Move]:
    """Name what is done to the second picture: nothing, a shift, a zoom, a flip, a swap, a part repainted."""
    shifts = {f"shift {by} px": lambda a, b, by=by: window(a, by * 0.8, by * 0.6) for by in SHIFTS}
    zooms = {f"zoom {zoom}": lambda a, b, zoom=zoom: window(a, zoom=zoom) for zoom in ZOOMS}
    return {
        GOOD: lambda a, b: window(a),
        **shifts,
        **zooms,
        "flip": lambda a, b: window(a).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "swap": lambda a, b: window(b),
        "repainted": lambda a, b: repainted(window(a), window(b)),
        ONE_LIGHT: lambda a, b: window(a),
    }


def lit(image: Image.Image, colour: Sequence[float], gamma: float, slope: float) -> Image.Image:
    """Light a picture anew: a gain in each channel, a curve, and a gradient from left to right."""
    right = np.linspace(1 - slope, 1 + slope, image.width)[None, :, None]
    light = (np.asarray(image, np.float64) / 255) ** gamma * np.array(colour) * right
    return Image.fromarray((light.clip(0, 1) * 255).round().astype(np.uint8))


LIGHTS = {
    "day": ((1.0, 1.0, 1.0), 1.0, 0.0),
    "dusk": ((1.0, 0.75, 0.5), 1.1, 0.2),
    "night": ((0.35, 0.4, 0.6), 1.1, 0.0),
    "overcast": ((0.85, 0.9, 0.95), 0.8, 0.0),
    "from the left": ((1.0, 0.95, 0.9), 1.0, -0.5),
    "from the right": ((1.0, 1.0, 1.0), 1.2, 0.5),
}


def pairs(num: int) -> Iterator[Pair]:
    """Every photograph, under every two neighbouring lights, with every move."""
    whole, lights = photographs(num), list(LIGHTS.values())
    moved = moves()
    for number, photograph in enumerate(whole):
        other = whole[(number + 1) % len(whole)]
        for here, there in zip(lights, lights[1:] + lights[:1], strict=True):
            first = lit(window(photograph), *here)
            for name, move in moved.items():
                yield Pair(first, lit(move(photograph, other), *(here if name == ONE_LIGHT else there)), name)


def accuracy(kept: Sequence[bool], of: Sequence[Pair]) -> dict[str, object]:
    """Precision, recall, and the share that is kept of every kind."""
    share = {
        move: float(np.mean([k for k, pair in zip(kept, of, strict=True) if pair.move == move]))
        for move in dict.fromkeys(pair.move for pair in of)
    }
    recall, wrong = share[GOOD], float(np.mean([value for move, value in share.items() if move != GOOD]))
    precision = recall / (recall + wrong) if recall + wrong else float("nan")
    return {"precision": precision, "recall": recall, "kept": share}


def medians(names: Sequence[str], scores: Sequence[Mapping[str, float]], of: Sequence[Pair]) -> dict[str, object]:
    """The median of every score for every kind of pair."""
    kinds = dict.fromkeys(pair.move for pair in of)
    found = {
        (name, kind): [row[name] for row, pair in zip(scores, of, strict=True) if pair.move == kind and name in row]
        for name in names
        for kind in kinds
    }
    return {name: {kind: round(float(np.median(found[name, kind] or [np.nan])), 3) for kind in kinds} for name in names}


def table(found: Mapping[str, Mapping[str, object]]) -> str:
    """Write the report as Markdown: precision, recall, and the share that is kept of every move."""
    moved = list(moves())[1:]
    lines = [f"| kept if | precision | recall | {' | '.join(moved)} |", "| --- " * (len(moved) + 3) + "|"]
    for name, row in found.items():
        bounds = ", ".join(
            f"{score} {'≥' if sign > 0 else '≤'} {bound:g}" for score, sign, bound in BOUNDS.get(name, ())
        )
        kept: Mapping[str, float] = row["kept"]  # type: ignore[assignment]
        lines.append(
            f"| {bounds or name} | {row['precision']:.3f} | {row['recall']:.3f} | "
            + " | ".join(f"{kept[move]:.2f}" for move in moved)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is there, print the table and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=len(PHOTOGRAPHS), help="how many, at least 2")
    parser.add_argument("--patches", help="a vision model of timm, for patches")
    parser.add_argument("--checkpoint", help="its weights, a safetensors file")
    parser.add_argument("--layer", type=int, default=-1, help="of its intermediate features")
    parser.add_argument("--depth", help="a depth model of transformers")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench/geometry.json"))
    arguments = parser.parse_args()
    chosen: dict[str, Geometry] = {"flow": Flow(), "edges": Edges(), "residual": Residual(), "light": LightChange()}
    if arguments.patches:
        chosen["patches"] = Patches(arguments.patches, arguments.checkpoint, arguments.layer)
    if arguments.depth:
        chosen["depth"] = Depth(arguments.depth)
    every = list(pairs(arguments.photographs))
    firsts, seconds = [pair.first for pair in every], [pair.second for pair in every]
    scores = {name: geometry(firsts, seconds) for name, geometry in chosen.items()}
    kept = {name: [not BOUNDS[name].broken_by(row) for row in rows] for name, rows in scores.items()}
    kept["flow, residual and light"] = [
        all(one) for one in zip(kept["flow"], kept["residual"], kept["light"], strict=True)
    ]
    found = {name: accuracy(rows, every) for name, rows in kept.items()}
    print(table(found))
    median = {name: medians(geometry.names, scores[name], every) for name, geometry in chosen.items()}
    report = {"machine": platform.platform(), "pairs": len(every), "size": SIZE, "found": found, "median": median}
    write_json(arguments.output, report)


if __name__ == "__main__":
    main()
