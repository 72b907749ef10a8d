"""speed=, offload= and quantization=: what is exact stays exact, what does not go together is refused."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch._dynamo.utils import counters

from dsd.errors import UserError
from dsd.models import quantize
from dsd.models.speed import Speed
from dsd.pipeline import offload
from dsd.pipeline.pipeline import DSDPipeline

DATA = Path(__file__).parents[1] / "data" / "published_tiny"
CPU = torch.device("cpu")
GUIDED = {"image_guidance_scale": 1.5, "text_guidance_scale": 3.0}


def load(**settings: object) -> DSDPipeline:
    model = DATA / "dsd_model"
    lora = model / "pytorch_lora_weights.safetensors"
    pipeline = DSDPipeline.from_base(str(DATA / "base"), transformer=model / "transformer", lora=lora)
    pipeline.set_progress_bar_config(disable=True)
    exact = {"fuse": True, "compile": False, "attention_backend": None, "precompute": True, "step_cache": None}
    speed = Speed("test", **{**exact, **settings})
    speed(pipeline, CPU)
    pipeline.precompute, pipeline.guidance_batching = speed.precompute, speed.step_cache is None
    return pipeline


def draw(pipeline: DSDPipeline, seeds: tuple[int, ...] = (1, 2), **settings: object) -> torch.Tensor:
    known = {"height": 64, "width": 64, "num_inference_steps": 6, "max_sequence_length": 16, **GUIDED}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    prompts = ["a dog", "a cat in the rain"][: len(seeds)]
    picture = Image.open(DATA / "reference.png")
    return pipeline(prompts, picture, generator=generators, **{**known, **settings}, output_type="latent").images


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def eager() -> torch.Tensor:
    return draw(load(precompute=False))


@pytest.mark.parametrize("settings", [{}, {"guidance_batching": False}, {"no_cfg_until_timestep": 0}])
def test_precomputing_changes_nothing(settings) -> None:
    pipeline = load()
    weights = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    assert distance(draw(pipeline, **settings), draw(load(precompute=False), **settings)) < 1e-5
    assert all(torch.equal(weights[name], value) for name, value in pipeline.transformer.state_dict().items())


def test_a_precomputed_step_runs_no_modulation(eager) -> None:
    """FLUX's modulations are a quarter of its weights; they run once a pass, not once a step."""
    pipeline, calls = load(), []
    block = pipeline.transformer.transformer_blocks[0]
    block.norm1.linear.register_forward_hook(lambda *_: calls.append(1))
    draw(pipeline)
    assert len(calls) == 2  # the first two steps' plain pass, and the rest


def test_an_error_in_a_picture_leaves_the_transformer_whole() -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    pipeline = load()
    names = list(pipeline.transformer.state_dict())
    with pytest.raises(ZeroDivisionError):
        draw(pipeline, callback_on_step_end=fail)
    assert list(pipeline.transformer.state_dict()) == names


def test_the_empty_prompt_is_encoded_once() -> None:
    pipeline, calls = load(), []
    pipeline.text_encoder_2.register_forward_hook(lambda *_: calls.append(1))
    draw(pipeline)
    draw(pipeline)
    assert len(calls) == 3


@pytest.mark.slow
def test_compiled_blocks_draw_the_same_and_stay_compiled(eager) -> None:
    pipeline = load(compile=True)
    assert distance(draw(pipeline), eager) < 1e-5
    compiled = counters["stats"]["unique_graphs"]
    for seeds in ((3, 4), (5, 6)):
        draw(pipeline, seeds)
    assert counters["stats"]["unique_graphs"] == compiled


def test_a_step_cache_skips_steps_and_keeps_passes_apart(eager) -> None:
    pipeline, calls = load(step_cache=0.5), []
    pipeline.transformer.single_transformer_blocks[-1].attn.register_forward_hook(lambda *_: calls.append(1))
    cached = draw(pipeline)
    assert len(calls) < 2 + 4 * 3
    assert 0 < distance(cached, eager) < 0.5
    torch.testing.assert_close(draw(pipeline), cached)  # nothing is left over for the next picture
    never = load(step_cache=1e-9)
    assert distance(draw(never), eager) < 1e-5


@pytest.mark.parametrize("kind", ["int8", "fp8", "gguf"])
def test_quantised_weights_draw_almost_the_same(eager, kind) -> None:
    pipeline = load()
    whole = dict(pipeline.transformer.named_parameters())
    quantize.quantize(pipeline, CPU, kind)
    changed = {
        name for name, value in pipeline.transformer.named_parameters()
        if type(value) is not type(whole[name]) or value.dtype != whole[name].dtype
    }  # fmt: skip
    assert changed
    assert all("transformer_blocks." in name for name in changed)
    assert 1e-6 < distance(draw(pipeline), eager) < 0.1


def test_fp8_leaves_modulations_alone() -> None:
    """The docstring said that norms stay as they are, and a quarter of FLUX's weights were changed nevertheless."""
    pipeline = load()
    norms = {name: p.clone() for name, p in pipeline.transformer.named_parameters() if ".norm" in name}
    assert any("norm1.linear.weight" in name for name in norms)
    quantize.fp8(pipeline, CPU)
    after = dict(pipeline.transformer.named_parameters())
    assert all(type(after[name]) is torch.nn.Parameter and torch.equal(after[name], p) for name, p in norms.items())
    assert type(after["transformer_blocks.0.attn.to_q.weight"].data) is not torch.Tensor


def test_nf4_is_told_what_stays_as_it_is() -> None:
    whole = quantize.outside_blocks(load().transformer)
    assert {"x_embedder", "context_embedder", "proj_out", "norm_out.linear"} <= set(whole)
    assert not any("transformer_blocks." in name for name in whole)


def test_no_step_looks_its_timestep_up(monkeypatch) -> None:
    """Each look-up waits for the GPU."""
    pipeline, looked = load(), []
    monkeypatch.setattr(type(pipeline.scheduler), "index_for_timestep", lambda *_: looked.append(1) or 0)
    draw(pipeline)
    assert not looked


def test_t5_can_be_quantised_too() -> None:
    pipeline = load()
    quantize.int8(pipeline, CPU, parts=["transformer", "text_encoder_2"])
    assert torch.isfinite(draw(pipeline)).all()
    with pytest.raises(UserError, match="unet is no part of the pipeline; its parts: "):
        quantize.int8(pipeline, CPU, parts=["unet"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("model", "none"), "moves weights to a GPU and there is none"),
        (("none", "nf4"), "nf4 needs a GPU"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused(settings, words) -> None:
    with pytest.raises(UserError, match=words):
        offload.refuse_without_gpu(*settings, CPU)


def test_an_unknown_attention_backend_is_refused() -> None:
    with pytest.raises(UserError, match=r"speed\.attention_backend=warp"):
        load(attention_backend="warp")


@pytest.mark.gpu
@pytest.mark.parametrize("place", ["model", "sequential", "group"])
def test_offloading_changes_nothing(eager, place) -> None:
    pipeline = load()
    offload.place(pipeline, torch.device("cuda"), place)
    assert distance(draw(pipeline).cpu(), eager) < 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["int8", "fp8", "nf4", "gguf"])
@pytest.mark.parametrize("place", ["none", "model"])
def test_quantised_weights_on_a_gpu(eager, kind, place) -> None:
    pipeline = load().to(torch.bfloat16)
    quantize.quantize(pipeline, torch.device("cuda"), kind)
    offload.place(pipeline, torch.device("cuda"), place)
    assert distance(draw(pipeline).float().cpu(), eager) < 0.3
