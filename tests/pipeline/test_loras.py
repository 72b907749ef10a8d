"""Style LoRAs on top of a student: made for a plain base by diffusers' own means, stacked, weighted, refused."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

from dsd.errors import UserError
from dsd.infer.methods import weighted
from dsd.models.loading import load_pipeline
from dsd.pipeline.pipeline import DSDPipeline

DATA = Path(__file__).parents[1] / "data" / "published_tiny"
TARGETS = ["to_q", "x_embedder"]  # some style LoRAs hold the embedder, which is wider in the student


def style(folder: Path, seed: int, transformer: FluxTransformer2DModel | None = None) -> Path:
    """A LoRA file as a diffusers script writes it."""
    if transformer is None:
        transformer = load_pipeline(str(DATA / "base"), cls=FluxPipeline).transformer
    torch.manual_seed(seed)
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=TARGETS, init_lora_weights=False))
    FluxPipeline.save_lora_weights(folder, get_peft_model_state_dict(transformer))
    return folder / "pytorch_lora_weights.safetensors"


def load(styles: dict[str, float] | None = None, fuse: bool = True) -> DSDPipeline:
    model = DATA / "dsd_model"
    lora = model / "pytorch_lora_weights.safetensors"
    return DSDPipeline.from_base(str(DATA / "base"), None, model / "transformer", lora, style_loras=styles, fuse=fuse)


def draw(pipeline: DSDPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    small = {"height": 64, "width": 64, "num_inference_steps": 2, "max_sequence_length": 16}
    generator, picture = torch.Generator().manual_seed(1), Image.open(DATA / "reference.png")
    return pipeline("a dog", picture, generator=generator, **small, output_type="latent").images


@pytest.fixture(scope="module")
def styles(tmp_path_factory) -> list[str]:
    return [str(style(tmp_path_factory.mktemp(f"style-{seed}"), seed)) for seed in (1, 2)]


def test_styles_add_up(styles) -> None:
    """W + 0.5 B1 A1 alpha/r + 2 B2 A2 alpha/r, whether merged or not; the condition's half of the embedder stays."""
    plain, stacked = load(), load({styles[0]: 0.5, styles[1]: 2.0})
    difference = stacked.transformer.x_embedder.weight - plain.transformer.x_embedder.weight
    assert difference[:, :64].abs().max() > 1e-3
    assert not difference[:, 64:].any()
    first, second = load({styles[0]: 1.0}), load({styles[1]: 1.0})
    for name, weight in stacked.transformer.named_parameters():
        base, one, two = (dict(p.transformer.named_parameters())[name] for p in (plain, first, second))
        torch.testing.assert_close(weight, base + 0.5 * (one - base) + 2 * (two - base), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        draw(stacked), draw(load(dict(zip(styles, (0.5, 2.0))), fuse=False)), atol=1e-4, rtol=1e-3
    )


def test_a_weight_is_written_behind_the_name() -> None:
    assert weighted("ink.safetensors:0.8") == ("ink.safetensors", 0.8)
    assert weighted("user/ink") == ("user/ink", 1.0)
    assert weighted("C:/ink.safetensors") == ("C:/ink.safetensors", 1.0)


def test_a_weight_of_nothing_is_no_style(styles) -> None:
    torch.testing.assert_close(draw(load({styles[0]: 0.0})), draw(load()), atol=1e-5, rtol=1e-5)


def test_they_can_be_loaded_later_as_in_any_pipeline(styles) -> None:
    pipeline = load()
    before = draw(pipeline)
    file = Path(styles[0])
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="ink")
    pipeline.set_adapters(["ink"], [0.5])
    torch.testing.assert_close(draw(pipeline), draw(load({styles[0]: 0.5})), atol=1e-4, rtol=1e-3)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(draw(pipeline), before)


def test_what_is_no_lora_of_this_base_is_refused(styles, tmp_path) -> None:
    def refused(path: Path, words: str) -> None:
        with pytest.raises(UserError, match=f"{re.escape(str(path))}: {words}"):
            load({str(path): 1.0})

    config = load_pipeline(str(DATA / "base"), cls=FluxPipeline).transformer.config
    wider = FluxTransformer2DModel.from_config({**config, "num_attention_heads": 2 * config["num_attention_heads"]})
    refused(style(tmp_path / "wider", 1, wider), "not a LoRA of this base: ")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(Path(styles[0]).read_bytes()[:200])
    refused(cut, "not a whole safetensors file")
    refused(tmp_path / "none.safetensors", "no such file")
    (tmp_path / "pickle.bin").write_bytes(b"\x80\x04.")
    refused(tmp_path / "pickle.bin", "weights are read from .safetensors files only")
