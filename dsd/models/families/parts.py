"""What two families share."""

from typing import Any, ClassVar

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from dsd.models.canvas import pack, unpack


class PackedLatents:
    """Latents of `AutoencoderKL`, four to a token: FLUX.1 and Z-Image."""

    def encode(self, vae: Any, pixels: Tensor) -> Tensor:
        """Encode pixels (B, 3, H, W) to tokens (B, L, C) by the posterior's mode."""
        latents = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
        return pack((latents - vae.config["shift_factor"]) * vae.config["scaling_factor"])

    def decode(self, vae: Any, tokens: Tensor, rows: int) -> Tensor:
        """Decode tokens (B, L, C) of `rows` rows to pixels (B, 3, H, W)."""
        latents = unpack(tokens, rows) / vae.config["scaling_factor"] + vae.config["shift_factor"]
        pixels: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return pixels

    def noise(self, num: int, rows: int, columns: int, channels: int, generator: Any, device: torch.device) -> Tensor:
        """Draw the noise of `num` pictures, (num, L, C), as diffusers' pipelines do."""
        shape = num, channels // 4, 2 * rows, 2 * columns
        return pack(randn_tensor(shape, generator=generator, device=device, dtype=torch.float32))


class TwoKindsOfBlocks:
    """Double blocks, with a stream of their own for text, before single ones: FLUX.1 and FLUX.2."""

    def width(self, transformer: Any) -> int:
        """Count the numbers of a token within the transformer."""
        return int(transformer.inner_dim)

    def block_tokens(self, name: str, image_tokens: int, text_tokens: int) -> tuple[float, int]:
        """Count tokens for a list of blocks. In double blocks, either stream uses its own half of the weights."""
        num = image_tokens + text_tokens
        return (num / 2 if name == "transformer_blocks" else num), num


class OneLanguageModel:
    """A language model that reads the prompt as a message: FLUX.2 and Z-Image."""

    thinking: ClassVar[bool]  # whether the chat template leaves room for it

    def text_encoders(self, pipeline: Any) -> dict[str, Any]:
        """Name the text encoder."""
        return {"text_encoder": pipeline.text_encoder}

    def count_tokens(self, pipeline: Any, prompt: str) -> int:
        """Count the tokens of a prompt within its chat template."""
        message = [{"role": "user", "content": prompt}]
        text = pipeline.tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True, enable_thinking=self.thinking
        )
        return len(pipeline.tokenizer(text, verbose=False).input_ids)
