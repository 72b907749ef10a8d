"""The second stage: negatives that the student draws itself, and a LoRA that learns to prefer the truth."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from dsd.errors import UserError
from dsd.models.adapter import build_student
from dsd.models.adapter_file import read_adapter
from dsd.models.canvas import Canvas
from dsd.models.loading import load_pipeline
from dsd.models.student import CanvasStudent, Conditions
from dsd.pipeline.pipeline import DSDPipeline
from dsd.runs.shards import read_shards
from dsd.train.data.batch import Batch
from dsd.train.loss import FlowMatching, SubjectFidelity

TEACHER = "pkg://dsd.toybox/weights/teacher"


def batch(negative: bool = True) -> Batch:
    torch.manual_seed(0)
    latents, worse, noise = torch.randn(3, 4, 8, 4)
    conditions = Conditions(latents, (latents, latents))
    return Batch(Canvas(2, 4), latents, conditions, noise, torch.full((4,), 0.5), worse if negative else None)


class Leaning:
    """A student that moves towards the true target by `shift`, whatever it is shown; without its LoRA not at all."""

    shift = 0.0

    def velocity(self, noisy_latents, sigmas, conditions, canvas, guidance_scale):  # type: ignore[no-untyped-def]
        return (batch().noise - batch().latents) * self.shift

    @contextmanager
    def without_lora(self):  # type: ignore[no-untyped-def]
        now, self.shift = self.shift, 0.0
        yield
        self.shift = now


def test_the_loss_is_dpo_on_velocities() -> None:
    """Nothing learnt: log 2. Nearer to the true target than before, and farther from the negative: less."""
    student = Leaning()
    loss, flow = SubjectFidelity(student, 1.0, 1.0, beta=2.0), FlowMatching(student, 1.0, 1.0)
    worse = replace(batch(), latents=batch().negative)
    torch.testing.assert_close(loss(batch()), torch.full((4,), 0.693147))
    student.shift = 0.5
    good, bad = flow(batch()), flow(worse)
    with student.without_lora():
        good_before, bad_before = flow(batch()), flow(worse)
    expected = -torch.log(torch.sigmoid(-((good - good_before) - (bad - bad_before))))
    torch.testing.assert_close(loss(batch()), expected)
    assert (loss(batch()) < 0.69).all()
    with pytest.raises(UserError, match="data=preferences"):
        loss(batch(negative=False))


def test_without_its_lora_a_student_is_what_it_began_from(adapter) -> None:
    transformer = build_student(load_pipeline(TEACHER).transformer, CanvasStudent(), 4, 4, init=adapter)
    plain = DSDPipeline.from_base(TEACHER, adapter).transformer
    torch.manual_seed(0)
    for name, parameter in transformer.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    ours, theirs = (CanvasStudent(each, torch.float32) for each in (transformer, plain))
    latents, canvas = torch.randn(2, 1, 32, transformer.config.out_channels), Canvas(4, 8)
    texts = torch.randn(1, 4, plain.config.joint_attention_dim), torch.randn(1, plain.config.pooled_projection_dim)
    given = latents[0], torch.tensor([0.5]), Conditions(latents[1], tuple(texts)), canvas, 3.5
    with torch.no_grad():
        with ours.without_lora():
            torch.testing.assert_close(ours.velocity(*given), theirs.velocity(*given), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(ours.velocity(*given), theirs.velocity(*given), atol=1e-2)


def test_the_second_stage(run, pairs, adapter, refused, tmp_path) -> None:
    """Negatives of some pairs, a few steps over the first adapter, and one file that is both."""
    negatives, out = tmp_path / "negatives", tmp_path / "train"
    run("infer", "experiment=toybox_sfo/infer", f"jobs.path={pairs}", "jobs.num=6", f"adapter={adapter}", "device=cpu",
        "settings.num_inference_steps=2", f"output_dir={negatives}")  # fmt: skip
    drawn = read_shards(negatives, "results")
    assert drawn["job"] == [f"pair-{n:08d}" for n in range(6)]
    assert all(prompt.startswith("a photo of ") for prompt in drawn["prompt"])
    settings = (
        "experiment=toybox_sfo/train",
        "student=canvas",
        f"pairs={pairs}",
        f"data.negatives={negatives}",
        "device=cpu",
        "batch_size=2",
    )
    run("train", *settings, f"init_adapter={adapter}", "num_steps=6", "log_every=1", "warmup_steps=0", "lora.rank=4",
        "lora.alpha=8", f"output_dir={out}")  # fmt: skip
    lines = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    assert lines[0]["loss"] == pytest.approx(0.693147, abs=1e-4)  # log 2: nothing is preferred yet
    assert lines[-1]["loss"] != lines[0]["loss"]
    state, metadata = read_adapter(out)
    assert metadata["lora"]["rank"] == 32 + 4
    base, both = load_pipeline(TEACHER).transformer, DSDPipeline.from_base(TEACHER, out).transformer
    name = "transformer_blocks.0.attn.to_q"
    first, second = (
        load_file(adapter / "adapter.safetensors"),
        load_file(sorted((out / "checkpoints").iterdir())[-1] / "trainable.safetensors"),
    )
    weight = base.get_submodule(name).weight
    weight = weight + first[f"transformer.{name}.lora_B.weight"] @ first[f"transformer.{name}.lora_A.weight"]
    weight = weight + 2 * second[f"{name}.lora_B.default.weight"] @ second[f"{name}.lora_A.default.weight"]
    torch.testing.assert_close(both.get_submodule(name).weight, weight, atol=1e-5, rtol=1e-4)
    assert torch.equal(state["c_embedder.weight"], first["c_embedder.weight"])
    said = refused("train", f"pairs={pairs}", "objective=sfo", "objective.beta=1", "batch_size=2",
                   "device=cpu", "num_steps=1", f"output_dir={tmp_path / 'none'}")  # fmt: skip
    assert "data=preferences" in said
