"""The second stage: negatives that the student draws itself, and a LoRA that learns to prefer the truth."""

import json
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from dsd.errors import UserError
from dsd.models.adapter import build_student, without_lora
from dsd.models.adapter_file import read_adapter
from dsd.models.loading import load_pipeline
from dsd.pipeline.pipeline import DSDPipeline
from dsd.runs.shards import read_shards
from dsd.train.loss import Batch, FlowMatching, Model, SubjectFidelity

TEACHER = "pkg://dsd.toybox/weights/teacher"


def batch(rejected: bool = True) -> Batch:
    torch.manual_seed(0)
    latents, worse, noise = torch.randn(3, 4, 8, 4)
    return Batch(latents, latents, latents, latents, noise, torch.full((4,), 0.5), worse if rejected else None)


def test_the_loss_is_dpo_on_velocities() -> None:
    """Nothing learnt: log 2. A model nearer to the truth than before, and farther from the worse target: less."""
    shift = [0.0]

    @contextmanager
    def before():
        now, shift[0] = shift[0], 0.0
        yield
        shift[0] = now

    def velocity(noisy: torch.Tensor, given: Batch, rows: int, columns: int) -> torch.Tensor:
        return (given.noise - batch().latents) * shift[0]  # towards the true target, whatever it is shown

    model = Model(velocity, {8: (2, 4)}, before)
    loss = SubjectFidelity(model, 1.0, beta=2.0)
    torch.testing.assert_close(loss(batch()), torch.full((4,), 0.693147))
    shift[0] = 0.5
    flow = FlowMatching(model, 1.0)
    good, bad = flow(batch()), flow(Batch(**{**vars(batch()), "latents": batch().rejected}))
    with before():
        good_before, bad_before = flow(batch()), flow(Batch(**{**vars(batch()), "latents": batch().rejected}))
    expected = -torch.log(torch.sigmoid(-((good - good_before) - (bad - bad_before))))
    torch.testing.assert_close(loss(batch()), expected)
    assert (loss(batch()) < 0.69).all()
    with pytest.raises(UserError, match="data=preferences"):
        loss(batch(rejected=False))


def test_without_its_lora_a_student_is_what_it_began_from(adapter) -> None:
    student = build_student(load_pipeline(TEACHER).transformer, 4, 4, init=adapter)
    plain = DSDPipeline.from_base(TEACHER, adapter).transformer
    torch.manual_seed(0)
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    given = {
        "hidden_states": torch.randn(1, 32, 128), "timestep": torch.tensor([0.5]), "guidance": torch.tensor([3.5]),
        "pooled_projections": torch.randn(1, plain.config.pooled_projection_dim), "txt_ids": torch.zeros(4, 3),
        "encoder_hidden_states": torch.randn(1, 4, plain.config.joint_attention_dim), "img_ids": torch.zeros(32, 3),
    }  # fmt: skip
    with torch.no_grad():
        with without_lora(student):
            torch.testing.assert_close(student(**given)[0], plain(**given)[0], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(student(**given)[0], plain(**given)[0], atol=1e-2)


def test_the_second_stage(run, pairs, adapter, refused, tmp_path) -> None:
    """Negatives of some pairs, a few steps over the first adapter, and one file that is both."""
    negatives, out = tmp_path / "negatives", tmp_path / "train"
    run("infer", "experiment=sfo/infer", f"jobs.path={pairs}", "jobs.num=6", f"adapter={adapter}", "device=cpu",
        "settings.num_inference_steps=2", f"output_dir={negatives}")  # fmt: skip
    drawn = read_shards(negatives, "results")
    assert drawn["job"] == [f"pair-{n:08d}" for n in range(6)]
    assert all(prompt.startswith("a photo of ") for prompt in drawn["prompt"])
    settings = ("experiment=sfo/train", f"pairs={pairs}", f"data.negatives={negatives}", "device=cpu", "batch_size=2")
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
    said = refused("train", f"pairs={pairs}", "objective=sfo", "objective.beta=1", "lora=toybox", "batch_size=2",
                   "device=cpu", "num_steps=1", f"output_dir={tmp_path / 'none'}")  # fmt: skip
    assert "data=preferences" in said
