"""Students with reference tokens: what they see, what they remember, and that stock pipelines draw the same."""

import copy
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from worlds_of_families import kontext, random_base

from dsd.errors import UserError
from dsd.models.adapter import adapter_state, build_student, describe, load_adapter, trainable_parameters
from dsd.models.adapter_file import About, save_adapter
from dsd.models.canvas import to_pixels
from dsd.models.families import NAMES, family_by_class, family_named
from dsd.models.kinds import make_student
from dsd.models.student import Conditions, Kept, Student
from dsd.models.tokens import TokenStudent
from dsd.pipeline.pipeline import CLASSES

PROMPTS = ["a red round critter, beach", "a blue tall critter, small, snow"]
KV = getattr(diffusers, "Flux2KleinKVPipeline", None)  # diffusers 0.38 has FLUX.2's memory, the oldest that we take not
ALL = [
    (name, attention)
    for name in NAMES
    for attention in family_named(name).attentions
    if KV is not None or (name, attention) != ("flux2", "cached")
]
CACHED = [name for name, attention in ALL if attention == "cached"]
LORA = {"rank": 4, "alpha": 8.0, "targets": "all_linear", "use_rslora": False, "use_dora": False}


@pytest.fixture(scope="module")
def bases() -> dict[str, Any]:
    return {name: random_base(name) for name in NAMES}


@pytest.fixture
def base(bases, family: str) -> Any:
    """A base that a test may change."""
    parts = {name: part for name, part in bases[family].components.items() if part is not None}
    return type(bases[family])(**{**parts, "transformer": copy.deepcopy(parts["transformer"])})


def student_over(base: Any, attention: str, positions: str | None = None) -> Student:
    student = make_student(
        family_by_class(type(base).__name__), "tokens", positions, attention, transformer=base.transformer
    )
    student.prepare(base.transformer)
    return student


def inputs(student: Student, base: Any, num_references: int = 1) -> tuple[Tensor, Tensor, Conditions, Any]:
    generator = torch.Generator().manual_seed(3)
    references = torch.rand(2, num_references, 3, 64, 64, generator=generator) * 2 - 1
    canvas, text = student.canvas(64, 64), student.family.encode_text(base, PROMPTS, 32)
    noisy = torch.randn(2, canvas.num_tokens, student.family.channels(base.transformer), generator=generator)
    return noisy, torch.tensor([0.4, 0.9]), Conditions(student.condition(base.vae, references), text), canvas


@torch.no_grad()
@pytest.mark.parametrize(("family", "attention"), ALL)
def test_every_reference_is_seen_and_a_batch_changes_nothing(base, family, attention) -> None:
    student = student_over(base, attention)
    noisy, sigmas, conditions, canvas = inputs(student, base, num_references=3)
    whole = student.velocity(noisy, sigmas, conditions, canvas, 3.5)
    assert whole.shape == noisy.shape
    one = Conditions(conditions.cond_latents[1:], tuple(part[1:] for part in conditions.text))
    alone = student.velocity(noisy[1:], sigmas[1:], one, canvas, 3.5)
    torch.testing.assert_close(whole[1:], alone, atol=2e-5, rtol=1e-4)
    for place in range(3):
        changed = conditions.cond_latents.clone()
        changed[:, place * canvas.num_tokens] += 1
        other = student.velocity(noisy, sigmas, Conditions(changed, conditions.text), canvas, 3.5)
        assert (other - whole).abs().amax(dim=(1, 2)).min() > 1e-4, place


@torch.no_grad()
@pytest.mark.parametrize("family", CACHED)
@pytest.mark.parametrize("attention", ["full", "cached"])
def test_references_may_share_the_places_of_what_is_drawn(base, family, attention) -> None:
    student = student_over(base, attention, "shared")
    noisy, sigmas, conditions, canvas = inputs(student, base, num_references=2)
    drawn, *references = student.ids(canvas, conditions.cond_latents.shape[1]).split(canvas.num_tokens)
    assert len(references) == 2
    assert all(torch.equal(ids, drawn) for ids in references)
    kept = Kept()
    denoise = student.denoiser(conditions, canvas, 3.5, kept)
    first = denoise(noisy, sigmas)
    later = denoise(noisy * 0.5, sigmas * 0.5)  # cached: by memory
    assert torch.equal(later, student.velocity(noisy * 0.5, sigmas * 0.5, conditions, canvas, 3.5))
    assert About.model_validate(student.about()).positions == "shared", "an adapter file may say so"
    changed = Conditions(conditions.cond_latents.flip(1), conditions.text)
    assert not torch.equal(student.velocity(noisy, sigmas, changed, canvas, 3.5), first), "it still sees them"


@torch.no_grad()
@pytest.mark.parametrize("family", CACHED)
def test_the_memory_is_exact_and_knows_neither_noise_nor_text(base, family) -> None:
    student = student_over(base, "cached")
    noisy, sigmas, conditions, canvas = inputs(student, base)
    kept = Kept()
    denoise = student.denoiser(conditions, canvas, 3.5, kept)
    denoise(noisy, sigmas)  # sees the references
    counted = []
    base.transformer.register_forward_pre_hook(
        lambda _, arguments, named: counted.append(named["hidden_states"].shape[1]), with_kwargs=True
    )
    for scale in (1.0, 0.5):
        again = denoise(noisy * scale, sigmas * scale)  # remembers them
        assert counted.pop() == canvas.num_tokens
        assert not counted
        fresh = student.velocity(noisy * scale, sigmas * scale, conditions, canvas, 3.5)
        assert torch.equal(again, fresh)
        counted.clear()
    other = Conditions(conditions.cond_latents, tuple(part.flip(0) for part in conditions.text))
    remembered = student.denoiser(other, canvas, 3.5, kept)(noisy, sigmas)
    assert counted == [canvas.num_tokens], "another prompt needs no look at the references"
    assert torch.equal(remembered, student.velocity(noisy, sigmas, other, canvas, 3.5))
    assert not torch.equal(remembered, denoise(noisy, sigmas))


@pytest.mark.parametrize("family", CACHED)
def test_references_see_themselves_alone(base, family) -> None:
    """No gradient flows from the noise or the text into what is remembered of the references."""
    student = student_over(base, "cached")
    noisy, sigmas, conditions, canvas = inputs(student, base)
    noisy.requires_grad_(True)
    references = conditions.cond_latents.requires_grad_(True)
    ids, reference_ids = student._places(canvas, canvas.num_tokens)
    text = tuple(part.requires_grad_(True) for part in conditions.text)
    _, memory = student.family.remembering_velocity(
        base.transformer, noisy, ids, references, reference_ids, sigmas, text, 3.5
    )
    total = torch.stack([value.square().sum() for value in tensors_in(memory)]).sum()
    of_references, *others = torch.autograd.grad(total, (references, noisy, *text), allow_unused=True)
    assert all(other is None or not other.any() for other in others)
    assert of_references.abs().sum() > 0


def tensors_in(memory: Any) -> list[Tensor]:
    if isinstance(memory, list):
        return [part for both in memory for part in both]
    layers = (*memory.double_block_caches, *memory.single_block_caches)
    return [part for layer in layers for part in layer.get()]


def picture() -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8))


STOCK = {
    ("flux2", "full"): lambda base: Flux2KleinPipeline(**base.components, is_distilled=True),
    **({("flux2", "cached"): lambda base: KV(**base.components, is_distilled=True)} if KV else {}),
    ("flux1", "full"): kontext,
}


@pytest.mark.parametrize(("family", "attention"), STOCK)
def test_stock_pipelines_load_the_adapter_and_draw_the_same(base, family, attention, tmp_path: Path) -> None:
    plain = copy.deepcopy(base.transformer)
    made = save_random(base, family, attention, tmp_path)
    ours = CLASSES[family](**parts_of(base, plain))
    load_adapter(ours.transformer, tmp_path, family=family_named(family))
    ours.about = made["student"]
    settings = {"num_inference_steps": 3, "output_type": "np", "height": 64, "width": 64, "max_sequence_length": 32}
    given = ours(PROMPTS[0], picture(), generator=torch.Generator().manual_seed(1), guidance_scale=2.0, **settings)

    base.transformer = random_base(family).transformer
    stock = STOCK[family, attention](base)
    if family == "flux1":
        more = {"_auto_resize": False, "max_area": 64 * 64, "guidance_scale": 2.0}
    else:
        more = {"text_encoder_out_layers": (1, 2, 3)}

    def error() -> float:
        generator = torch.Generator().manual_seed(1)
        theirs = stock(image=picture(), prompt=PROMPTS[0], generator=generator, **settings, **more).images
        return float(np.linalg.norm(given.images - theirs) / np.linalg.norm(theirs))

    assert error() > 1e-3, "the base alone draws something else"
    stock.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    assert error() < 1e-5


def parts_of(base: Any, transformer: Any) -> dict[str, Any]:
    parts = {name: part for name, part in base.components.items() if part is not None}
    return {**parts, "transformer": transformer}


def save_random(base: Any, family: str, attention: str, folder: Path) -> dict[str, Any]:
    """Write an adapter with random weights; return its metadata."""
    student = make_student(family_named(family), "tokens", None, attention)
    made = {"base": describe(base.transformer, "here", student.family), "lora": LORA, "student": student.about()}
    transformer = build_student(base.transformer, student, **LORA)
    generator = torch.Generator().manual_seed(2)
    state = {
        name: torch.randn(p.shape, generator=generator) * 0.05 for name, p in trainable_parameters(transformer).items()
    }
    assert all("lora_" in name for name in state)
    save_adapter(folder / "adapter.safetensors", adapter_state(state), made)
    return made


@pytest.mark.parametrize("family", NAMES)
def test_the_untrained_adapter_changes_nothing(base, family) -> None:
    attention = next(attention for name, attention in ALL if name == family)
    student = make_student(family_named(family), "tokens", None, attention, transformer=base.transformer)
    student.prepare(base.transformer)
    given = inputs(student, base)
    with torch.no_grad():
        before = student.velocity(given[0], given[1], given[2], given[3], 3.5)
        build_student(base.transformer, student, rank=2, alpha=2, targets="all_linear")
        after = student.velocity(given[0], given[1], given[2], given[3], 3.5)
    torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-5)
    loss = student.velocity(given[0], given[1], given[2], given[3], 3.5).square().mean()
    loss.backward()
    trained = trainable_parameters(base.transformer)
    assert len(trained) > 4
    assert all(p.grad is not None for p in trained.values())


@pytest.mark.parametrize(("family", "asked", "words"), [
    ("flux2", {"kind": "canvas"}, "flux2 takes student=tokens"),
    ("flux1", {"kind": "tokens", "positions": "flux2"}, "student.positions=flux2 is unknown to flux1"),
    ("z_image", {"kind": "tokens", "positions": "shared"}, "student.positions=shared is unknown to z_image"),
    ("z_image", {"kind": "tokens", "attention": "cached"}, "student.attention=cached is unknown to z_image"),
    ("flux1", {"kind": "canvas", "positions": "kontext"}, "student.positions=kontext is unknown to canvas"),
])  # fmt: skip
def test_what_a_family_does_not_know_is_refused(family, asked, words) -> None:
    with pytest.raises(UserError, match=words):
        make_student(family_named(family), **asked)


def test_too_many_references_are_refused(bases) -> None:
    student = TokenStudent(family_named("flux2"))
    with pytest.raises(UserError, match="5 references for a picture"):
        student.condition(bases["flux2"].vae, torch.zeros(1, 5, 3, 64, 64))


@pytest.mark.parametrize("family", ["flux2"])
def test_an_adapter_of_another_family_is_refused(base, family, tmp_path: Path) -> None:
    save_random(base, "flux2", "full", tmp_path)
    with pytest.raises(UserError, match="it was made for the family flux2, and this base is flux1"):
        load_adapter(random_base("flux1").transformer, tmp_path)


def test_the_file_tells_diffusers_its_scale(tmp_path: Path) -> None:
    base = random_base("flux2")
    save_random(base, "flux2", "full", tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / "adapter.safetensors", "pt") as file:
        told = json.loads(file.metadata()["lora_adapter_metadata"])
    assert (told["transformer.r"], told["transformer.lora_alpha"]) == (4, 8.0)


def test_pixels_are_those_of_the_canvas() -> None:
    """Stock pipelines scale pictures as we do where nothing has to be scaled."""
    pixels = to_pixels(picture(), 64, 64)
    assert torch.allclose(pixels, torch.as_tensor(np.asarray(picture())).permute(2, 0, 1) / 127.5 - 1)


@pytest.mark.skipif(KV is not None, reason="this diffusers has FLUX.2's memory")
def test_a_diffusers_without_the_memory_is_refused() -> None:
    with pytest.raises(UserError, match=r"needs diffusers 0\.38 or newer"):
        student_over(random_base("flux2"), "cached")


@pytest.mark.skipif(KV is None, reason="diffusers is too old")
def test_a_step_of_klein_costs_what_arithmetic_says() -> None:
    """At 512 pixels: 1,024 tokens drawn, as many of a reference, 512 of text. The memory saves two fifths of a step."""
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel(
            num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False
        )
        noisy, references, sigmas = torch.zeros(1, 1024, 128), torch.zeros(1, 1024, 128), torch.zeros(1)
        conditions = Conditions(references, (torch.zeros(1, 512, 7680),))
    assert sum(p.numel() for p in transformer.parameters()) == 3_875_544_576
    flops = {}
    for attention in ("full", "cached"):
        student = make_student(family_named("flux2"), "tokens", None, attention, transformer=transformer)
        student.prepare(transformer)
        denoise = student.denoiser(conditions, student.canvas(512, 512), 1.0)
        denoise(noisy, sigmas)
        with FlopCounterMode(display=False) as counter:
            denoise(noisy, sigmas)
        flops[attention] = counter.get_total_flops() / 1e12
    assert flops == {"full": pytest.approx(17.7, abs=0.1), "cached": pytest.approx(10.6, abs=0.1)}
