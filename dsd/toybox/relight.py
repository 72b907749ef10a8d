"""Pictures in another light: their judge and their measure, both from what is known of the toybox.

Two pictures are *aligned* where every attribute but the light is the same, pose and place included. `python -m
dsd.toybox.relight` prints the PSNR that the VAE alone leaves, the ceiling of any model that draws through it.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from torchvision.transforms.functional import to_pil_image

from dsd.io.files import resolve
from dsd.metrics.measure import Drawing, GridScores, Scale, Scores
from dsd.toybox import grammar
from dsd.toybox.draw import render
from dsd.toybox.judge import ToyboxJudge
from dsd.toybox.measure import (
    GRID_SCALE,
    Reading,
    Recogniser,
    ToyboxGrids,
    ToyboxMeasure,
    agree,
    guesses,
    prompt_objection,
    read,
    share_right,
    truth_objection,
)
from dsd.toybox.world import ATTRIBUTES, CONTEXT, SUBJECT, sample_contexts, sample_subjects

LIGHT = "light"
STRUCTURE = tuple(name for name in ATTRIBUTES if name != LIGHT)


class RelightJudge(ToyboxJudge):
    """Keeps pairs of which the light differs and nothing else; its instructions ask for the target's light."""

    constant: ClassVar[Sequence[str]] = STRUCTURE
    changing: ClassVar[Sequence[str]] = (LIGHT,)

    def instruct(self, references: Sequence[Image.Image], targets: Sequence[Image.Image]) -> list[str]:
        """Ask for the light of the targets."""
        if not targets:
            return []
        return [grammar.relight(said[LIGHT]) for said in self._say(targets, (LIGHT,))]


CHANCE = {
    "CP": float(np.mean([1 / len(ATTRIBUTES[name]) for name in STRUCTURE])),
    "CP_strict": prod(1 / len(ATTRIBUTES[name]) for name in STRUCTURE),
    "PF": 1 / len(CONTEXT[LIGHT]),
}
SCALE = Scale(
    names=("CP", "CP_strict", "PF", "CPxPF", "PSNR"),
    headline="CPxPF",
    explained=(
        "CP is the share of everything but the light that a recogniser reads off the new picture as it is in truth: "
        "the subject's attributes, its place, size and tilt, and the scene. CP strict counts a picture only if all of "
        "it is right. PF is the share of pictures that show the light that was asked for. CP × PF is the product of "
        "the two means. PSNR, in dB, compares the new picture with the world's own picture in that light."
    ),
    unit="share of attributes",
    plotted=("CP", "PF", "CPxPF"),
    parts=STRUCTURE,
    products={"CPxPF": ("CP", "PF")},
    chance={
        name: round(value, 6)
        for name, value in (CHANCE | {"CPxPF": CHANCE["CP"] * CHANCE["PF"]} | guesses(ATTRIBUTES)).items()
        if name != LIGHT
    },
    titles={"CP": "CP, structure kept", "PF": "PF, light as asked"},
    by_kind=("PF",),
)


class RelightMeasure(ToyboxMeasure):
    """CP, PF and PSNR of pictures in another light. Their truth names every attribute, context included."""

    scale = SCALE

    def __init__(self, recogniser: Recogniser) -> None:
        super().__init__(recogniser)
        self.grids = RelightGrids(recogniser)

    def objection(self, prompt: str, truth: str) -> str:
        """Why a picture of this prompt and truth cannot be scored; "" if it can."""
        if reason := truth_objection(truth) or prompt_objection(prompt):
            return reason
        if absent := sorted(set(ATTRIBUTES) - set(json.loads(truth or "{}"))):
            return f"truth lacks {', '.join(absent)}; use pictures of jobs=toybox jobs.relation=relight"
        return "" if LIGHT in grammar.read(prompt) else f'the prompt "{prompt[:80]}" asks for no light of this world'

    def __call__(self, drawings: Sequence[Drawing]) -> list[Scores]:
        """Score every picture against the world's own picture in the light that its prompt asks for."""
        readings = read(self.recogniser, [drawing.picture for drawing in drawings])
        self.read_references(drawings)  # for the self-check
        truths = [json.loads(d.truth) | {LIGHT: grammar.read(d.prompt)[LIGHT]} for d in drawings]
        return [
            score(reading, truth) | {"PSNR": psnr(drawing.picture, true_picture(truth))}
            for drawing, reading, truth in zip(drawings, readings, truths, strict=True)
        ]


def score(reading: Reading, truth: Reading) -> Scores:
    """Score one picture: what is read off it against every attribute as it should be."""
    kept = {name: float(reading[name] == truth[name]) for name in STRUCTURE}
    mean = share_right(reading, {name: truth[name] for name in STRUCTURE})
    return {"CP": mean, "CP_strict": min(kept.values()), "PF": float(reading[LIGHT] == truth[LIGHT]), **kept}


def true_picture(truth: Reading) -> Image.Image:
    """Draw the world's own picture of all these attributes."""
    rows = [np.array([[values.index(truth[n]) for n, values in part.items()]]) for part in (SUBJECT, CONTEXT)]
    picture: Image.Image = to_pil_image(render(*rows)[0])
    return picture


def psnr(picture: Image.Image, truth: Image.Image) -> float:
    """Compute the peak signal-to-noise ratio in dB; a picture of another size is resized to the truth's."""
    shown = np.asarray(picture.convert("RGB").resize(truth.size, Image.Resampling.LANCZOS))
    error = np.asarray(truth), shown
    return 99.0 if np.array_equal(*error) else float(peak_signal_noise_ratio(*error, data_range=255))


class RelightGrids(ToyboxGrids):
    """As for grids of one subject; two panels go together where they are aligned and their lights differ."""

    scale = replace(GRID_SCALE, relation="relight")

    def __call__(self, panels: Sequence[Sequence[Image.Image]], captions: Sequence[Sequence[str]]) -> list[GridScores]:
        """Score grids, each given by its panels and their captions, row by row."""
        return [replace(found, same_subject=aligned(found)) for found in super().__call__(panels, captions)]


def aligned(found: GridScores) -> dict[tuple[int, int], bool]:
    """Tell of each two panels whether they show one picture in two lights."""
    shown = [dict(reading) for reading in found.shown]
    return {
        (i, j): agree(shown[i], shown[j], STRUCTURE) and shown[i][LIGHT] != shown[j][LIGHT]
        for i, j in found.same_subject
    }


@torch.inference_mode()
def ceiling(num: int = 256, seed: int = 5) -> float:
    """Measure the mean PSNR (dB) of `num` pictures of held-out subjects that pass through the small FLUX's VAE."""
    vae = AutoencoderKL.from_pretrained(resolve("pkg://dsd.toybox/weights/teacher/vae")).eval()
    rng = np.random.default_rng(seed)
    pixels = render(sample_subjects(rng, num, "held_out"), sample_contexts(rng, num))
    back = vae.decode(vae.encode(pixels * 2 - 1).latent_dist.mode()).sample / 2 + 0.5
    pictures = (to_pil_image(picture.clamp(0, 1)) for picture in back)
    return float(np.mean([psnr(shown, to_pil_image(truth)) for shown, truth in zip(pictures, pixels, strict=True)]))


if __name__ == "__main__":
    print(f"PSNR that the VAE alone leaves: {ceiling():.2f} dB")
