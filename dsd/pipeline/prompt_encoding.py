"""Hand prompts to a pipeline: encoded beforehand where its way of prompting is known, otherwise as words.

A prompting says how a class of pipelines encodes prompts, which arguments of a call take the embeddings back, which
argument carries the guidance, and whether that guidance needs the embeddings of a negative prompt.

B prompts, T text tokens, D text width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dsd.models.families.flux2 import layers_of

ENCODED_AT_ONCE = 16  # prompts
Encoded = dict[str, Tensor]  # the embeddings of one prompt, by argument of a call


class Form(Protocol):
    """How the embeddings of several prompts lie together."""

    def split(self, names: Sequence[str], encoded: Sequence[Any]) -> list[Encoded]:
        """Take what `encode_prompt` returned for B prompts apart."""
        ...

    def join(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        """Put the embeddings of B prompts together, as a call takes them."""
        ...


class Stacked:
    """Prompts of one length: every argument is (B, ...)."""

    def split(self, names: Sequence[str], encoded: Sequence[Any]) -> list[Encoded]:
        rows = zip(*(part.split(1) for part in encoded[: len(names)]), strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def join(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


STACKED = Stacked()


class Listed:
    """Prompts of their own lengths: an argument is a list of B tensors, each (T, D)."""

    def split(self, names: Sequence[str], encoded: Sequence[Any]) -> list[Encoded]:
        rows = zip(*encoded[: len(names)], strict=True)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def join(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        return {name: [row[name] for row in rows] for name in rows[0]}


class Padded:
    """Prompts padded to the longest of a call, (B, T, D), with a mask, (B, T). One prompt is kept without padding.

    The mask is None where the pipeline needed none.
    """

    def split(self, names: Sequence[str], encoded: Sequence[Any]) -> list[Encoded]:
        name, (embeds, mask) = names[0], encoded
        lengths = [embeds.shape[1]] * len(embeds) if mask is None else mask.sum(1).tolist()
        return [{name: row[:length]} for row, length in zip(embeds, lengths, strict=True)]

    def join(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        (name,) = rows[0]
        embeds = [row[name] for row in rows]
        masks = [torch.ones(len(one), dtype=torch.long, device=one.device) for one in embeds]
        return {name: pad_sequence(embeds, True), f"{name}_mask": pad_sequence(masks, True)}


def nothing(_: Any) -> dict[str, Any]:
    """`encode_prompt` needs no more arguments."""
    return {}


def quarters(pipeline: Any) -> dict[str, Any]:
    """FLUX.2 [klein] reads the text encoder at three depths."""
    return {"text_encoder_out_layers": layers_of(pipeline.text_encoder)}


@dataclass(frozen=True)
class Prompting:
    """How the pipelines of one class encode prompts and are guided."""

    pipeline: str  # name of the class in diffusers
    embeddings: tuple[str, ...]  # arguments of a call that take what `encode_prompt` returns first, in its order
    form: Form = STACKED
    others: Callable[[Any], Mapping[str, Any]] = nothing  # pipeline -> more arguments of `encode_prompt`
    guidance: str = "guidance_scale"  # argument of a call that carries the guidance
    negative: str | None = None  # negative prompt that true guidance needs beside the prompt; None: it needs none
    guided_above: float = 1.0  # guidance up to this needs no negative prompt

    def encode(self, pipeline: Any, prompts: Sequence[str], max_sequence_length: int) -> list[Encoded]:
        """Encode prompts: for each its embeddings by argument, on the CPU."""
        others = self.others(pipeline)
        encoded = pipeline.encode_prompt(prompt=list(prompts), **others, max_sequence_length=max_sequence_length)
        rows = self.form.split(self.embeddings, encoded)
        return [{name: part.cpu() for name, part in row.items()} for row in rows]

    def negative_prompt(self, pipeline: Any, guidance_scale: float) -> str | None:
        """Give the negative prompt of calls with this guidance; None where they take none.

        Distilled models, which say so in the pipeline's config, ignore the guidance.
        """
        ignored = guidance_scale <= self.guided_above or pipeline.config.get("is_distilled", False)
        return None if ignored else self.negative


PROMPTINGS = (
    Prompting("FluxPipeline", ("prompt_embeds", "pooled_prompt_embeds")),
    Prompting("Flux2Pipeline", ("prompt_embeds",)),
    Prompting("Flux2KleinPipeline", ("prompt_embeds",), others=quarters, negative=""),
    Prompting(
        "StableDiffusion3Pipeline",
        ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
        others=lambda _: {"prompt_2": None, "prompt_3": None},  # None repeats the prompt
    ),
    Prompting(
        "ZImagePipeline",
        ("prompt_embeds",),
        Listed(),
        others=lambda _: {"do_classifier_free_guidance": False},  # the negative prompt is encoded once, by itself
        negative="",
        guided_above=0.0,
    ),
    Prompting(
        "QwenImagePipeline",
        ("prompt_embeds", "prompt_embeds_mask"),
        Padded(),
        guidance="true_cfg_scale",
        negative=" ",
    ),
)


class Text(Protocol):
    """The text side of a pipeline."""

    def prepare(self, prompts: Sequence[str]) -> None:
        """Receive all prompts that follow."""

    def arguments(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Give the arguments of the pipeline's call that say what these prompts say, and how strongly."""
        ...


@dataclass
class Words:
    """Prompts as they are: the whole pipeline encodes them at every call."""

    max_sequence_length: int
    guidance_scale: float

    def prepare(self, prompts: Sequence[str]) -> None:
        """Nothing to prepare."""

    def arguments(self, prompts: Sequence[str]) -> dict[str, Any]:
        settings = {"max_sequence_length": self.max_sequence_length, "guidance_scale": self.guidance_scale}
        return {"prompt": list(prompts), **settings}


@dataclass
class Embeddings:
    """Prompts encoded once, beforehand. The text encoders are on the device only while they encode."""

    prompting: Prompting
    reader: Any  # pipeline of the text encoders alone
    max_sequence_length: int
    guidance_scale: float
    negative: str | None  # negative prompt of every call; None: calls take none
    device: torch.device
    known: dict[str, Encoded] = field(default_factory=dict)  # by prompt, on the CPU

    @torch.inference_mode()
    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode every distinct prompt once, and the negative prompt."""
        self.known = {}
        self.reader.to(self.device)
        distinct = list(dict.fromkeys([*prompts, *([self.negative] if self.negative is not None else [])]))
        for start in range(0, len(distinct), ENCODED_AT_ONCE):
            texts = distinct[start : start + ENCODED_AT_ONCE]
            self.known |= zip(texts, self.prompting.encode(self.reader, texts, self.max_sequence_length), strict=True)
        if self.device.type == "cuda":
            self.reader.to("cpu", silence_dtype_warnings=True)
            torch.cuda.empty_cache()

    def arguments(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Join the embeddings of B prompts, and B times those of the negative prompt."""
        given = self.join(prompts)
        if self.negative is not None:
            given |= {f"negative_{name}": part for name, part in self.join([self.negative] * len(prompts)).items()}
        # a call without max_sequence_length cuts embeddings to the pipeline's own default
        return {**given, "max_sequence_length": self.max_sequence_length, self.prompting.guidance: self.guidance_scale}

    def join(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Join the embeddings of prompts on the device."""
        rows = [{name: part.to(self.device) for name, part in self.known[prompt].items()} for prompt in prompts]
        return self.prompting.form.join(rows)


def prompting_of(pipeline: Any) -> Prompting | None:
    """Find the prompting by the names of the pipeline's class and its bases; None where it is unknown."""
    names = {cls.__name__ for cls in type(pipeline).__mro__}
    return next((one for one in PROMPTINGS if one.pipeline in names), None)


def text_of(
    pipeline: Any, max_sequence_length: int, guidance_scale: float, device: torch.device
) -> tuple[Text, Any]:  # fmt: skip
    """Split a pipeline into its text side and the part that draws; of an unknown class the whole draws."""
    prompting = prompting_of(pipeline)
    if prompting is None:
        return Words(max_sequence_length, guidance_scale), pipeline
    reader, drawer = split(pipeline)
    negative = prompting.negative_prompt(pipeline, guidance_scale)
    return Embeddings(prompting, reader, max_sequence_length, guidance_scale, negative, device), drawer


def split(pipeline: Any) -> tuple[Any, Any]:
    """Make two pipelines that share their parts: the text encoders and tokenizers alone, and everything else.

    Both keep the pipeline's own settings, such as `is_distilled`.
    """
    parts = pipeline.components
    text = {name for name in parts if name.startswith(("text_encoder", "tokenizer"))}
    settings = {name: value for name, value in pipeline.config.items() if name not in parts and name[0] != "_"}
    reading = {name: part if name in text else None for name, part in parts.items()}
    drawing = {name: None if name in text else part for name, part in parts.items()}
    return type(pipeline)(**reading, **settings), type(pipeline)(**drawing, **settings)
