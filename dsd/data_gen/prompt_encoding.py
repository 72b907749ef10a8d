"""Hand prompts to a pipeline: encoded beforehand where its family is known, otherwise as words.

B prompts. A family says how its pipeline encodes prompts and which arguments of a call take the embeddings back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline, Flux2Pipeline, FluxPipeline, StableDiffusion3Pipeline
from torch import Tensor

ENCODED_AT_ONCE = 16  # prompts


@dataclass(frozen=True)
class Family:
    """How the pipelines of one class encode prompts."""

    pipeline: type[DiffusionPipeline]
    embeddings: tuple[str, ...]  # arguments of a call that take what `encode_prompt` returns first, in its order
    others: Mapping[str, Any] = field(default_factory=dict)  # arguments of `encode_prompt` that must be given

    def encode(self, pipeline: Any, prompts: Sequence[str], max_sequence_length: int) -> list[dict[str, Tensor]]:
        """Encode prompts: for each its embeddings by argument, (1, ...) on the CPU."""
        encoded = pipeline.encode_prompt(prompt=list(prompts), **self.others, max_sequence_length=max_sequence_length)
        rows = zip(*(part.cpu().split(1) for part in encoded[: len(self.embeddings)]), strict=True)
        return [dict(zip(self.embeddings, row, strict=True)) for row in rows]


FAMILIES = (
    Family(FluxPipeline, ("prompt_embeds", "pooled_prompt_embeds")),
    Family(Flux2Pipeline, ("prompt_embeds",)),
    Family(
        StableDiffusion3Pipeline,
        ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
        {"prompt_2": None, "prompt_3": None},  # None repeats the prompt
    ),
)


class Text(Protocol):
    """The text side of a pipeline."""

    def prepare(self, prompts: Sequence[str]) -> None:
        """Receive all prompts that follow."""

    def arguments(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Give the arguments of the pipeline's call that say what these prompts say."""
        ...


@dataclass
class Words:
    """Prompts as they are: the whole pipeline encodes them at every call."""

    max_sequence_length: int

    def prepare(self, prompts: Sequence[str]) -> None:
        """Nothing to prepare."""

    def arguments(self, prompts: Sequence[str]) -> dict[str, Any]:
        return {"prompt": list(prompts), "max_sequence_length": self.max_sequence_length}


@dataclass
class Embeddings:
    """Prompts encoded once, beforehand. The text encoders are on the device only while they encode."""

    family: Family
    reader: Any  # pipeline of the text encoders alone
    max_sequence_length: int
    device: torch.device
    known: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # by prompt, on the CPU

    @torch.inference_mode()
    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode every distinct prompt once."""
        self.known = {}
        self.reader.to(self.device)
        distinct = list(dict.fromkeys(prompts))
        for start in range(0, len(distinct), ENCODED_AT_ONCE):
            texts = distinct[start : start + ENCODED_AT_ONCE]
            self.known |= zip(texts, self.family.encode(self.reader, texts, self.max_sequence_length), strict=True)
        if self.device.type == "cuda":
            self.reader.to("cpu", silence_dtype_warnings=True)
            torch.cuda.empty_cache()

    def arguments(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Stack the embeddings of B prompts, (B, ...)."""
        rows = [self.known[prompt] for prompt in prompts]
        return {name: torch.cat([row[name] for row in rows]).to(self.device) for name in self.family.embeddings}


def family_of(pipeline: Any) -> Family | None:
    """Find the family by the pipeline's class; None where it is unknown."""
    return next((family for family in FAMILIES if isinstance(pipeline, family.pipeline)), None)


def text_of(pipeline: Any, max_sequence_length: int, device: torch.device) -> tuple[Text, Any]:
    """Split a pipeline into its text side and the part that draws; of an unknown family the whole draws."""
    family = family_of(pipeline)
    if family is None:
        return Words(max_sequence_length), pipeline
    reader, drawer = split(pipeline)
    return Embeddings(family, reader, max_sequence_length, device), drawer


def split(pipeline: Any) -> tuple[Any, Any]:
    """Make two pipelines that share their parts: the text encoders and tokenizers alone, and everything else."""
    text = {name for name in pipeline.components if name.startswith(("text_encoder", "tokenizer"))}
    reading = {name: part if name in text else None for name, part in pipeline.components.items()}
    drawing = {name: None if name in text else part for name, part in pipeline.components.items()}
    return type(pipeline)(**reading), type(pipeline)(**drawing)
