"""Pairs, encoded once: latents of both canvases and embeddings of every caption, in one file under a name that says
what it holds (pairs, encoders, geometry), so that any change of these makes another file and nothing stale is read.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from dsd.flow import generator_at
from dsd.manifest import atomic
from dsd.models.latents import condition_canvas, target_canvas, to_pixels
from dsd.train.loss import Batch

log = logging.getLogger(__name__)
EMPTY = 0  # row of the empty prompt among the captions


@dataclass(frozen=True)
class EncodedPairs:
    """N pairs with K different captions (a target description and an instruction each, and the empty prompt)."""

    latents: Tensor  # (N, L, C)
    cond_latents: Tensor  # (N, L, C)
    captions: Tensor  # (N, 2) rows of the embeddings: description, instruction
    prompt_embeds: Tensor  # (K, T, D)
    pooled_prompt_embeds: Tensor  # (K, P)

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class Sampling:
    """What is drawn for a sample. All of it is a function of (seed, position in the stream of samples)."""

    seed: int
    sigmas: Any  # flow.LogitNormalSigmas or the like
    text_dropout: float  # share of samples that see the empty prompt
    condition_dropout: float  # share that sees the zero condition latent; drawn independently
    instruction_ratio: float  # share of captions that are instructions instead of descriptions

    def index(self, position: int, num: int) -> int:
        """Which pair stands at a position: a fresh shuffle every epoch."""
        epoch, place = divmod(position, num)
        return int(torch.randperm(num, generator=generator_at(self.seed, 0, epoch))[place])

    def batch(self, pairs: EncodedPairs, positions: Sequence[int]) -> Batch:
        """The samples at these positions of the stream."""
        rows, captions, keep, noises, sigmas = [], [], [], [], []
        for position in positions:
            generator = generator_at(self.seed, 1, position)
            no_text, no_condition, instruct = torch.rand(3, generator=generator).tolist()
            row = self.index(position, len(pairs))
            caption = int(pairs.captions[row, int(instruct < self.instruction_ratio)])
            rows.append(row)
            captions.append(EMPTY if no_text < self.text_dropout else caption)
            keep.append(float(no_condition >= self.condition_dropout))
            sigmas.append(self.sigmas(1, generator))
            noises.append(torch.randn(pairs.latents.shape[1:], generator=generator))
        return Batch(
            latents=pairs.latents[rows],
            cond_latents=pairs.cond_latents[rows] * torch.tensor(keep).view(-1, 1, 1),
            prompt_embeds=pairs.prompt_embeds[captions],
            pooled_prompt_embeds=pairs.pooled_prompt_embeds[captions],
            noise=torch.stack(noises),
            sigmas=torch.cat(sigmas),
        )


def encode_pairs(
    pairs: Dataset,
    pipeline: FluxPipeline,
    identity: dict[str, Any],
    folder: Path,
    height: int,
    width: int,
    max_sequence_length: int,
    batch_size: int = 16,
) -> EncodedPairs:
    """Encode, or read what an earlier run encoded. `identity` names the encoders; `folder` holds the cache."""
    file = folder / f"encoded-{cache_key(pairs, identity, height, width, max_sequence_length)}.safetensors"
    if file.exists():
        log.info("train: %d encoded pairs read from %s", len(pairs), file)
        return EncodedPairs(**load_file(file))
    device = pipeline.vae.device
    with torch.inference_mode():
        latents, cond_latents = [], []
        for start in tqdm(range(0, len(pairs), batch_size), desc="latents", unit="batch", mininterval=1):
            rows = pairs[start : start + batch_size]
            references = torch.stack([to_pixels(image, height, width) for image in rows["conditioning"]]).to(device)
            targets = torch.stack([to_pixels(image, height, width) for image in rows["image"]]).to(device)
            latents.append(target_canvas(pipeline.vae, references, targets).cpu())
            cond_latents.append(condition_canvas(pipeline.vae, references).cpu())
        texts = list(dict.fromkeys(["", *pairs["caption"], *pairs["instruction"]]))  # "" first: EMPTY
        prompt_embeds, pooled = [], []
        for start in tqdm(range(0, len(texts), batch_size), desc="captions", unit="batch", mininterval=1):
            embeds, pools, _ = pipeline.encode_prompt(
                prompt=texts[start : start + batch_size], prompt_2=None, max_sequence_length=max_sequence_length
            )
            prompt_embeds.append(embeds.cpu())
            pooled.append(pools.cpu())
    row_of = {text: row for row, text in enumerate(texts)}
    captions = [[row_of[a], row_of[b]] for a, b in zip(pairs["caption"], pairs["instruction"], strict=True)]
    encoded = EncodedPairs(
        torch.cat(latents), torch.cat(cond_latents), torch.tensor(captions), torch.cat(prompt_embeds), torch.cat(pooled)
    )
    with atomic(file) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in vars(encoded).items()}, temporary)
    return EncodedPairs(**load_file(file))


def cache_key(pairs: Dataset, identity: dict[str, Any], *geometry: int) -> str:
    """16 hex digits over the pictures' bytes, the captions, the encoders and the geometry."""
    digest = hashlib.sha256(json.dumps([identity, geometry], sort_keys=True).encode())
    table = pairs.with_format("arrow").select_columns(["image", "conditioning", "caption", "instruction"])
    for batch in table.iter(256):
        for row in batch.to_pylist():
            for value in (
                row["image"]["bytes"],
                row["conditioning"]["bytes"],
                row["caption"].encode(),
                row["instruction"].encode(),
            ):
                digest.update(len(value).to_bytes(8, "little") + value)
    return digest.hexdigest()[:16]
