"""Make FLUX.1-dev's shape with random weights, to measure speed and memory where the weights are not at hand.

The figures are those of the published config.json files (black-forest-labs/FLUX.1-dev).
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from dsd.models.random_weights import draw_weights, empty

TRANSFORMER = {"in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
               "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
               "guidance_embeds": True}  # fmt: skip
T5: dict[str, Any] = {
    "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24, "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
CLIP: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
    "max_position_embeddings": 77, "projection_dim": 768, "vocab_size": 49408,
}  # fmt: skip
VAE = {"block_out_channels": (128, 256, 512, 512), "latent_channels": 16, "layers_per_block": 2, "norm_num_groups": 32,
       "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
       "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False,
       "sample_size": 1024}  # fmt: skip
SCHEDULER = {"shift": 3.0, "use_dynamic_shifting": True, "base_image_seq_len": 256, "max_image_seq_len": 4096,
             "base_shift": 0.5, "max_shift": 1.15}  # fmt: skip


def random_flux_dev(
    dtype: torch.dtype, device: torch.device | str = "cpu", tokenizers: str | Path | None = None
) -> FluxPipeline:
    """Draw all of FLUX.1-dev's pipeline, 17 billion parameters, on the device.

    `tokenizers` is a folder with `tokenizer/` and `tokenizer_2/`, of any FLUX; None leaves the text encoders out.
    """
    with empty(dtype):
        transformer = FluxTransformer2DModel(**TRANSFORMER)
        vae = AutoencoderKL(**VAE)
        clip: Any = CLIPTextModel(CLIPTextConfig(**CLIP)) if tokenizers else None
        t5: Any = T5EncoderModel(T5Config(**T5)) if tokenizers else None
    if t5 is not None:
        t5.tie_weights()  # parameters that were made empty were made apart
    for part in filter(None, (transformer, vae, clip, t5)):
        draw_weights(part, device)
        part.requires_grad_(False).eval()
    folders = [Path(tokenizers, name) if tokenizers else None for name in ("tokenizer", "tokenizer_2")]
    # FluxPipeline takes None for a part that is left out, but its types do not say so
    names: list[Any] = [AutoTokenizer.from_pretrained(folder) if folder else None for folder in folders]
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
    return FluxPipeline(scheduler, vae, clip, names[0], t5, names[1], transformer)
