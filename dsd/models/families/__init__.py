"""Families of base models: what is particular to FLUX.1, FLUX.2 and Z-Image, a file each.

A family knows how its text encoders are asked, how its VAE's latents become tokens, which schedule it samples with and
how its transformer is called. Nothing else of the project names a family. Shapes: B batch, L tokens of what is drawn, R
tokens of its references, C channels of a token, T text tokens; ids are those of `dsd.models.positions`.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dsd.errors import UserError

Text = tuple[Tensor, ...]  # what the text encoders say, (B, ...) each


class Family(Protocol):
    """A family of base models."""

    @property
    def name(self) -> str: ...

    @property
    def positions(self) -> tuple[str, ...]: ...  # rules of reference tokens' ids; the first is the family's own

    @property
    def attentions(self) -> tuple[str, ...]: ...  # what reference tokens may see; the first is the default

    @property
    def blocks_at(self) -> str: ...  # regular expression of the blocks' names, where a LoRA may stand

    @property
    def precomputable(self) -> bool: ...  # whether `dsd.pipeline.precompute` knows its modulations

    @property
    def step_cacheable(self) -> bool: ...  # whether diffusers' FirstBlockCache knows its blocks

    @property
    def lora_targets(self) -> dict[str, tuple[str, ...]]: ...  # endings of the modules that get a LoRA, by choice

    def encode_text(self, pipeline: Any, prompts: Sequence[str], max_sequence_length: int) -> Text:
        """Ask the text encoders of a pipeline."""
        ...

    def text_encoders(self, pipeline: Any) -> dict[str, Any]:
        """Name the text encoders of a pipeline; the one whose embeddings are large comes last."""
        ...

    def text_width(self, pipeline: Any) -> int:
        """Count the numbers of a text token."""
        ...

    def text_shapes(self, transformer: Any, num: int) -> tuple[tuple[int, ...], ...]:
        """Give the shapes of a text of `num` tokens, without the batch."""
        ...

    def count_tokens(self, pipeline: Any, prompt: str) -> int:
        """Count the text tokens of a prompt, as `max_sequence_length` counts them."""
        ...

    def encode(self, vae: Any, pixels: Tensor) -> Tensor:
        """Encode pixels (B, 3, H, W) in [-1, 1] to tokens (B, L, C), without a seed."""
        ...

    def decode(self, vae: Any, tokens: Tensor, rows: int) -> Tensor:
        """Decode tokens (B, L, C) of `rows` rows to pixels (B, 3, H, W) in about [-1, 1]."""
        ...

    def timesteps(self, scheduler: Any, num_steps: int, num_tokens: int, device: torch.device) -> Tensor:
        """Set the scheduler's timesteps (S,)."""
        ...

    def channels(self, transformer: Any) -> int:
        """Count the channels of a token, C."""
        ...

    def noise(self, num: int, rows: int, columns: int, channels: int, generator: Any, device: torch.device) -> Tensor:
        """Draw the noise of `num` pictures of rows x columns tokens, (num, L, C), as diffusers' pipeline does."""
        ...

    def velocity(
        self, transformer: Any, tokens: Tensor, ids: Tensor, sigmas: Tensor, text: Text, guidance_scale: float
    ) -> Tensor:
        """Call the transformer on tokens that all see each other: (B, N, C) at `ids` (N, 3) -> (B, N, C)."""
        ...

    def remembering_velocity(
        self, transformer: Any, tokens: Tensor, ids: Tensor, references: Tensor, reference_ids: Tensor,
        sigmas: Tensor, text: Text, guidance_scale: float, memory: Any = None,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """Call the transformer on tokens (B, L, C) beside references (B, R, C) that see themselves alone, at time 0.

        Their keys and values come back as `memory`. The same references may be given by it, whatever text and noise.
        -> velocity (B, L, C), memory
        """
        ...

    def allow_memory(self, transformer: Any) -> None:
        """Prepare a transformer for `remembering_velocity`; one that is prepared stays as it is."""
        ...

    def width(self, transformer: Any) -> int:
        """Count the numbers of a token within the transformer."""
        ...

    def block_tokens(self, name: str, image_tokens: int, text_tokens: int) -> tuple[float, int]:
        """Count for a list of blocks, by its name, the tokens that a weight sees and those that attend together."""
        ...

    def block_inputs(
        self, transformer: Any, block: Any, zeros: Callable[..., Tensor], batch: int, num_tokens: int, text_tokens: int
    ) -> dict[str, Any]:
        """Make the inputs of a block by `zeros(*shape)`, to measure what it keeps for the backward pass."""
        ...

    def edges(self, transformer: Any) -> tuple[Tensor, Tensor]:
        """Give the weights of the input and output layers, by which a base is recognised."""
        ...


def block_lists(transformer: Any) -> dict[str, Any]:
    """List the repeated blocks of a transformer by the name of their list; those of a list are alike."""
    return {name: part for name, part in transformer.named_children() if isinstance(part, nn.ModuleList) and len(part)}


def unwrapped(transformer: Any) -> Any:
    """Give the transformer below what a launcher wrapped it in."""
    return getattr(transformer, "module", transformer)


MODULES = {  # by the class of the pipeline
    "FluxPipeline": "flux1", "FluxKontextPipeline": "flux1", "DSDPipeline": "flux1",
    "Flux2KleinPipeline": "flux2", "Flux2KleinKVPipeline": "flux2", "DSDFlux2Pipeline": "flux2",
    "ZImagePipeline": "z_image", "DSDZImagePipeline": "z_image",
}  # fmt: skip
NAMES = tuple(dict.fromkeys(MODULES.values()))


def family_named(name: str) -> Family:
    """Give a family by its name."""
    found: Family = import_module(f"dsd.models.families.{name}").FAMILY
    return found


def family_of(pipeline: Any) -> Family:
    """Find the family of a pipeline. UserError where there is none."""
    return family_by_class(type(pipeline).__name__)


def class_in(index: Mapping[str, Any]) -> str:
    """Read the name of a pipeline's class in its model_index.json; a list names the file of its code first."""
    name: str | list[str] = index["_class_name"]
    return name if isinstance(name, str) else name[-1]


def family_by_class(name: str) -> Family:
    """Find the family whose pipelines have this class. UserError where there is none."""
    if name not in MODULES:
        raise UserError(f"{name}: no student can be made of such a pipeline; the known ones are {', '.join(MODULES)}")
    return family_named(MODULES[name])
