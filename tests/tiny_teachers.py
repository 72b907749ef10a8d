"""Tiny pipelines of the genuine classes of today's teachers, of random weights. 16 pixels are 4 tokens."""

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WIDTH = 16  # of the text encoders
IDS = {"bos_token_id": None, "eos_token_id": 258, "pad_token_id": 256}  # of SPECIAL
TEXT = {
    "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 256 + len(SPECIAL), "max_position_embeddings": 1024,
}  # fmt: skip


def tokenizer() -> Qwen2Tokenizer:
    """Every byte is a token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*letters, *SPECIAL])}
    made = Qwen2Tokenizer(vocab=vocab, merges=[], pad_token=SPECIAL[0], eos_token=SPECIAL[2], unk_token=SPECIAL[0])
    made.chat_template = TEMPLATE
    return made


def qwen3() -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(Qwen3Config(head_dim=8, **TEXT)).eval()


def qwen_vl() -> Qwen2_5_VLForConditionalGeneration:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0], "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config={**TEXT, "rope_parameters": rope, **IDS}, vision_config=vision)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def louder(transformer: torch.nn.Module) -> torch.nn.Module:
    """Raise the weights, so that prompts and guidance show in the picture."""
    with torch.no_grad():
        for weights in transformer.parameters():
            weights.mul_(2 if weights.ndim > 1 else 1)
    return transformer


def klein(is_distilled: bool = False) -> Flux2KleinPipeline:
    torch.manual_seed(0)
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1, latent_channels=4, norm_num_groups=1,
    ).eval()  # fmt: skip
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * WIDTH, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return Flux2KleinPipeline(scheduler, vae, qwen3(), tokenizer(), louder(transformer), is_distilled=is_distilled)


def z_image() -> ZImagePipeline:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 4), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4, norm_num_groups=1, shift_factor=0.06, scaling_factor=1.5,
    ).eval()  # fmt: skip
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[1024, 64, 64],
    )  # fmt: skip
    for pad in (transformer.x_pad_token, transformer.cap_pad_token):  # made without values
        torch.nn.init.normal_(pad, std=0.02)
    return ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=3.0), vae, qwen3(), tokenizer(), transformer)


def qwen_image() -> QwenImagePipeline:
    torch.manual_seed(0)
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1] * 4, latents_std=[1.5] * 4,
    ).eval()  # fmt: skip
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return QwenImagePipeline(scheduler, vae, qwen_vl(), tokenizer(), louder(transformer))


TINY = {"flux2_klein": klein, "z_image": z_image, "qwen_image": qwen_image}


def tiny(name: str) -> DiffusionPipeline:
    pipeline = TINY[name]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
