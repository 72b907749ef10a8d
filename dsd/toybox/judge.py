"""The judge for curation: a tiny CLIP, built and trained through open_clip.

It compares a picture's embedding with those of texts ("a critter with blue belly", ...) and calls two panels the same
subject when every attribute reads the same. It was trained on unnamed attributes too, since a vision-language model
knows such words.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from dsd.curation.judge import Judgement
from dsd.io.files import resolve
from dsd.io.records import Verdict
from dsd.models.loading import to_device
from dsd.toybox import code, grammar
from dsd.toybox.draw import render
from dsd.toybox.fit import fit
from dsd.toybox.panels import Panels, PanelStream, draw_panels, through_vae
from dsd.toybox.text import train_clip_tokenizer
from dsd.toybox.world import (
    ATTRIBUTES,
    CONTEXT,
    NAMED,
    SUBJECT,
    held_out,
    sample_contexts,
    sample_subjects,
    subject_numbers,
)

SEED = 11
BATCH, CAPTIONED, BETWEEN = 128, 48, 32
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": {"context_length": 32, "width": 64, "heads": 4, "layers": 2, "pool_type": "eos"},
}
# The text for a value of an attribute, with which pictures are compared.
PHRASES = {
    "colour": "a {} critter",
    "body": "a {} critter",
    "belly": "a critter with {} belly",
    "headgear": "a critter with {}",
    "headgear_colour": "a critter with {} headgear",
    "eyes": "a critter with {} eyes",
}


def train_judge(folder: Path, out: Path, num_steps: int = 1500, lr: float = 2e-3, device: str = "cpu") -> None:
    """Train the judge and write it to `out`/judge; `folder` holds checkpoints."""
    torch.manual_seed(SEED)
    tokenizer = train_clip_tokenizer([phrase for name in ATTRIBUTES for phrase in (*phrases_of(name), *spoken(name))])
    text_cfg = CONFIG["text_cfg"] | {"vocab_size": len(tokenizer), "eos_id": tokenizer.eos_token_id}
    config = CONFIG | {"text_cfg": text_cfg}
    clip = open_clip.model.CLIP(**config).to(device)
    vae = AutoencoderKL.from_pretrained(out / "teacher" / "vae").eval()
    stream, contrast = PanelStream(vae, SEED), open_clip.loss.ClipLoss()

    phrases = {name: tokenize(tokenizer, phrases_of(name)).to(device) for name in ATTRIBUTES}
    sizes = [len(ids) for ids in phrases.values()]

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch, rng = stream.batch(step, BATCH), np.random.default_rng((SEED, step, 1))
        pixels, first, second, share = between(rng, BETWEEN)
        pixels = torch.cat([batch.pixels, pixels]).to(device)
        truth = torch.as_tensor(np.concatenate([batch.subjects, batch.contexts], axis=1))
        truth, other = torch.cat([truth, first]).to(device), torch.cat([truth, second]).to(device)
        share = torch.cat([torch.ones(BATCH), share]).to(device)
        image_features = clip.encode_image(pixels * 2 - 1, normalize=True)
        # Every picture against the text of every value of each attribute, as at inference.
        words = clip.encode_text(torch.cat(list(phrases.values())), normalize=True)
        logits = (clip.logit_scale.exp() * image_features @ words.T).split(sizes, dim=-1)
        losses = [
            share * F.cross_entropy(part, truth[:, i], reduction="none")
            + (1 - share) * F.cross_entropy(part, other[:, i], reduction="none")
            for i, part in enumerate(logits)
        ]
        reading = torch.stack(losses).mean()
        right = torch.stack([(part.argmax(-1) == truth[:, i]).float().mean() for i, part in enumerate(logits)]).mean()
        # Pictures against whole captions: CLIP's own loss.
        texts = [
            grammar.describe_all(rng, s, c, keep=rng.uniform(0.3, 1.0), keep_context=0.8 * (rng.random() < 0.2))
            for s, c in zip(batch.subjects[:CAPTIONED], batch.contexts[:CAPTIONED], strict=True)
        ]
        text_features = clip.encode_text(tokenize(tokenizer, texts).to(device), normalize=True)
        contrastive = contrast(image_features[:CAPTIONED], text_features, clip.logit_scale.exp())
        return reading + 0.1 * contrastive, {"accuracy": right, "contrastive": contrastive}

    fit(clip, loss_at, folder, num_steps=num_steps, lr=lr, weight_decay=0.05)
    where = out / "judge"
    where.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous().cpu() for name, tensor in clip.state_dict().items()}, where / "clip.safetensors"
    )
    (where / "open_clip_config.json").write_text(json.dumps(config, indent=2))
    tokenizer.save_pretrained(where)
    judge = ToyboxJudge(str(where), device)
    (where / "accuracy.json").write_text(json.dumps(measure(judge, vae), indent=2))


def between(rng: np.random.Generator, num: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Blend two critters that differ in one detail, like the unclear details in a teacher's pictures.

    Returns pixels (num, 3, 64, 64), the attribute rows of both critters (num, A), and the share of the first one (num,)
    in 0.5..1. Without such pictures the judge would be as confident about unclear details as about clear ones.
    """
    subjects, contexts = sample_subjects(rng, num), sample_contexts(rng, num)
    others, column = subjects.copy(), rng.integers(len(NAMED), len(SUBJECT), num)
    sizes = np.array([len(values) for values in SUBJECT.values()])[column]
    rows = np.arange(num)
    others[rows, column] = (others[rows, column] + rng.integers(1, sizes)) % sizes
    share = torch.as_tensor(rng.uniform(0.5, 1, num), dtype=torch.float32)
    pixels = torch.lerp(render(others, contexts), render(subjects, contexts), share[:, None, None, None])
    pixels = code.decode(code.encode(pixels * 2 - 1)) / 2 + 0.5
    first, second = (torch.as_tensor(np.concatenate([s, contexts], axis=1)) for s in (subjects, others))
    return pixels.clamp(0, 1), first, second, share


def tokenize(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """Convert texts to ids, (B, 32)."""
    length = CONFIG["text_cfg"]["context_length"]
    found = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids: Tensor = found.input_ids
    return ids


def phrases_of(name: str) -> list[str]:
    """Write the text of each value of an attribute, in the plainest wording."""
    wordings = [grammar.WORDINGS.get(name, {}).get(value, (value,))[0] for value in ATTRIBUTES[name]]
    return [PHRASES.get(name, "a critter {}").format(wording) for wording in wordings]


def spoken(name: str) -> list[str]:
    """List every wording of an attribute that captions use."""
    return [wording for wordings in grammar.WORDINGS.get(name, {}).values() for wording in wordings]


class ToyboxJudge:
    """A `dsd.curation.judge.Judge` made of the tiny CLIP."""

    constant: ClassVar[Sequence[str]] = tuple(SUBJECT)  # attributes that both pictures of a kept pair share
    changing: ClassVar[Sequence[str]] = ()  # attributes in which they differ
    scores: ClassVar[Sequence[str]] = ("similarity", "confidence", "agreement")

    def __init__(self, path: str = "pkg://dsd.toybox/weights/judge", device: str = "auto") -> None:
        from transformers import CLIPTokenizer

        folder, self.device = Path(resolve(path)), to_device(device)
        config = json.loads((folder / "open_clip_config.json").read_text())
        self.clip = open_clip.model.CLIP(**config).to(self.device).eval()
        self.clip.load_state_dict(load_file(folder / "clip.safetensors"))
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        self.words: dict[str, Tensor] = {}  # attribute -> (K, D) its values' unit text features
        with torch.inference_mode():
            for name in ATTRIBUTES:
                ids = tokenize(tokenizer, phrases_of(name)).to(self.device)
                self.words[name] = self.clip.encode_text(ids, normalize=True)

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures as (B, D), unit length."""
        size = (64, 64)
        pixels = [pil_to_tensor(i.convert("RGB") if i.size == size else i.convert("RGB").resize(size)) for i in images]
        embeds: Tensor = self.clip.encode_image(torch.stack(pixels).to(self.device) / 127.5 - 1, normalize=True)
        return embeds

    @torch.inference_mode()
    def readings(self, features: Tensor) -> dict[str, Tensor]:
        """Convert embeddings (B, D) to {attribute: probabilities of its values (B, K)}."""
        scale = self.clip.logit_scale.exp()
        return {name: (scale * features @ words.T).softmax(-1) for name, words in self.words.items()}

    def judge(self, references: Sequence[Image.Image], targets: Sequence[Image.Image]) -> list[Judgement]:
        """Judge pairs by what is read on both pictures: all that is constant the same, all that changes another."""
        if not references:
            return []
        left, right = self.features(references), self.features(targets)
        similarity = (left * right).sum(-1).tolist()
        left_readings, right_readings = self.readings(left), self.readings(right)
        return [
            self.judgement(
                {name: found[row] for name, found in left_readings.items()},
                {name: found[row] for name, found in right_readings.items()},
                similarity[row],
            )
            for row in range(len(references))
        ]

    def judgement(self, here: dict[str, Tensor], there: dict[str, Tensor], similarity: float) -> Judgement:
        """Judge one pair by the probabilities (K,) of every attribute's values in both pictures."""
        first, second = (
            {name: ATTRIBUTES[name][int(p.argmax())] for name, p in found.items()} for found in (here, there)
        )
        differing = [
            f"{n.replace('_', ' ')} {first[n]} and {second[n]}" for n in self.constant if first[n] != second[n]
        ]
        unchanged = [f"{n} {first[n]} in both" for n in self.changing if first[n] == second[n]]
        read = (
            "every attribute reads the same" if not self.changing else f"only the {' and '.join(self.changing)} differs"
        )
        return Judgement(
            common_subject=f"a {first['colour']} {first['body']} critter",
            reference_description=describe(first),
            target_description=describe(second),
            same=not differing and not unchanged,
            reason="; ".join(differing + unchanged) or read,
            scores={
                "similarity": similarity,
                "confidence": min(float(found[n].max()) for found in (here, there) for n in self.constant),
                "agreement": float(np.prod([float(here[n] @ there[n]) for n in self.constant])),
            },
        )

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Write what a prompt for these pictures would say."""
        if not images:
            return []
        said = self._say(images, (*NAMED, *CONTEXT))
        return [f"a {s['colour']} {s['body']} critter, {place(s)}" for s in said]

    def instruct(self, references: Sequence[Image.Image], targets: Sequence[Image.Image]) -> list[str]:
        """Write what to do with the references to get the targets."""
        if not targets:
            return []
        return [f"show this critter {place(said)}" for said in self._say(targets, tuple(CONTEXT))]

    def _say(self, images: Sequence[Image.Image], names: Sequence[str]) -> list[dict[str, str]]:
        """Read attributes and put each into the plainest wording."""
        readings = self.readings(self.features(images))
        chosen = {name: readings[name].argmax(-1).tolist() for name in names}
        return [
            {name: grammar.WORDINGS[name][ATTRIBUTES[name][chosen[name][row]]][0] for name in names}
            for row in range(len(images))
        ]


def place(said: dict[str, str]) -> str:
    """Write a context: "big, upright, in the middle, beach, sunset"."""
    return ", ".join(said[name] for name in ("size", "tilt", "position", "scene", "light"))


def describe(read: dict[str, str]) -> str:
    """Describe a subject with all its attributes; `parse_description` reads the text back."""
    return (
        f"a {read['colour']} {read['body']} critter with {read['belly']} belly, {read['headgear_colour']} "
        f"{read['headgear']}, {read['eyes']} eyes"
    )


def parse_description(text: str) -> dict[str, str]:
    """Undo `describe`: {attribute: value} of a subject."""
    who, details = text.removeprefix("a ").split(" critter with ")
    belly, headgear, eyes = details.split(", ")
    colour, _, kind = headgear.partition(" ")
    named = dict(zip(NAMED, who.split(" "), strict=True))
    return named | {
        "belly": belly.removesuffix(" belly"),
        "headgear": kind,
        "headgear_colour": colour,
        "eyes": eyes.removesuffix(" eyes"),
    }


def shows_held_out_subject(verdict: Verdict) -> bool:
    """Tell whether either panel seems to show a subject of the evaluation; such pairs are kept out of training."""
    if not verdict.first_description:
        return False
    read = [parse_description(text) for text in (verdict.first_description, verdict.second_description)]
    rows = np.array([[SUBJECT[name].index(r[name]) for name in SUBJECT] for r in read])
    return bool(held_out(subject_numbers(rows)).any())


class HeldOutSubjects:
    """Excludes pairs of evaluation subjects: `selection.exclude` for the verdicts of `ToyboxJudge`."""

    judge = ToyboxJudge

    def __call__(self, verdict: Verdict) -> bool:
        """Tell whether a pair is excluded."""
        return shows_held_out_subject(verdict)


@torch.inference_mode()
def measure(judge: ToyboxJudge, vae: AutoencoderKL, num: int = 2000) -> dict[str, Any]:
    """Measure the accuracy by attribute on held-out subjects, as drawn and through the VAE."""
    rng = np.random.default_rng((SEED, 99))
    drawn = draw_panels(rng, num, "held_out")
    return {name: accuracy(judge, panels) for name, panels in (("drawn", drawn), ("vae", through_vae(vae, drawn, rng)))}


def accuracy(judge: ToyboxJudge, panels: Panels) -> dict[str, float]:
    """Measure the share of panels whose attribute is read correctly, by attribute, and the mean of these shares."""
    features = torch.cat([judge.clip.encode_image(p * 2 - 1, normalize=True) for p in panels.pixels.split(256)])
    readings, truth = judge.readings(features), np.concatenate([panels.subjects, panels.contexts], axis=1).T
    result = {
        name: round(float((readings[name].argmax(-1).numpy() == row).mean()), 4)
        for name, row in zip(ATTRIBUTES, truth, strict=True)
    }
    return result | {"mean": round(float(np.mean(list(result.values()))), 4)}
