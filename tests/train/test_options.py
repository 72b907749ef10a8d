"""What can be chosen in training, each at its smallest: what comes of it is what inference reads."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dsd.io.files import write_json
from dsd.models.adapter import build_student, trainable_parameters
from dsd.models.canvas import Canvas
from dsd.models.conditional import is_conditional, load_transformer
from dsd.models.families.flux1 import FAMILY
from dsd.models.flops import forward_flops, lora_step_flops
from dsd.models.flux_dev import random_flux_dev
from dsd.models.loading import load_pipeline
from dsd.models.student import CanvasStudent
from dsd.pipeline.pipeline import DSDPipeline
from dsd.runs.manifest import read_manifest
from dsd.train.checkpoint import checkpoints
from dsd.train.recompute import kept_bytes, recompute_blocks

BASE = Path(__file__).parents[1] / "data" / "published_tiny" / "base"
TEACHER = "pkg://dsd.toybox/weights/teacher"


@pytest.fixture
def settings(pairs, adapter) -> tuple[str, ...]:
    return (
        f"pairs={pairs}", f"cache_dir={adapter / 'cache'}", "batch_size=4", "learning_rate=1e-3",
        "log_every=1", "device=cpu", "num_steps=4", "student=canvas",
    )  # fmt: skip


def draw(pipeline: DSDPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    settings = {"height": 64, "width": 64, "num_inference_steps": 2, "max_sequence_length": 56}
    generator = torch.Generator().manual_seed(0)
    return pipeline(
        "a critter", Image.new("RGB", (64, 64), "red"), generator=generator, output_type="latent", **settings
    )[0]


def test_all_of_the_transformer_can_be_trained(run, settings, tmp_path) -> None:
    run("train", *settings, "lora.rank=0", f"output_dir={tmp_path}", "num_steps=2")
    transformer = load_transformer(tmp_path / "transformer")
    assert is_conditional(transformer)
    base = load_pipeline(TEACHER).transformer
    moved = [name for name, tensor in transformer.state_dict().items()
             if name in base.state_dict() and tensor.shape == base.state_dict()[name].shape
             and not torch.equal(tensor, base.state_dict()[name])]  # fmt: skip
    assert any("norm1.linear" in name for name in moved)
    assert any("transformer_blocks.0.attn.to_q" in name for name in moved)
    assert draw(DSDPipeline.from_base(TEACHER, transformer=tmp_path / "transformer")).isfinite().all()


@pytest.mark.parametrize("quantization", ["int8", "fp8_weights"])
def test_a_lora_on_a_quantised_base(run, settings, tmp_path, quantization) -> None:
    """The frozen base in 8 bits; the adapter fits the base in full precision."""
    run("train", *settings, f"quantization={quantization}", f"output_dir={tmp_path}")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert all(0 < line["loss"] < 10 and line["grad_norm"] > 0 for line in lines)
    state = load_file(tmp_path / "adapter.safetensors")
    assert any(name.endswith("lora_B.weight") and tensor.any() for name, tensor in state.items())
    assert draw(DSDPipeline.from_base(TEACHER, tmp_path)).isfinite().all()


def test_dora_and_rslora_load_again(run, settings, tmp_path) -> None:
    run("train", *settings, "lora.use_dora=true", "lora.use_rslora=true", f"output_dir={tmp_path}", "num_steps=2")
    state = load_file(tmp_path / "adapter.safetensors")
    assert any("lora_magnitude_vector" in name for name in state)
    assert draw(DSDPipeline.from_base(TEACHER, tmp_path, fuse=False)).isfinite().all()


def test_the_average_is_what_is_kept(run, settings, adapter, tmp_path) -> None:
    """A half-life of one batch: the average of the steps' tensors, each weighing half of the next."""
    run("train", *settings, "ema_half_life=4", f"output_dir={tmp_path}", "checkpoint_every=1", "keep_checkpoints=4")
    steps = [load_file(path / "trainable.safetensors") for path in sorted((tmp_path / "checkpoints").iterdir())]
    average = steps[0]
    for tensors in steps[1:]:
        average = {name: average[name].lerp(tensor, 0.5) for name, tensor in tensors.items()}
    kept = load_file(tmp_path / "adapter.safetensors")
    torch.testing.assert_close(kept["c_embedder.weight"], average["x_embedder.c_embedder.weight"])
    assert not torch.equal(kept["c_embedder.weight"], steps[-1]["x_embedder.c_embedder.weight"])


def test_positions_go_with_the_adapter(run, settings, adapter, tmp_path) -> None:
    run("train", *settings, "student.positions=diagonal", f"output_dir={tmp_path}")
    ours = DSDPipeline.from_base(TEACHER, tmp_path)
    assert ours.student.positions == "diagonal"
    assert DSDPipeline.from_base(TEACHER, adapter).student.positions == "column"
    diagonal = draw(ours)
    ours.about = {"positions": "column"}
    assert not torch.equal(diagonal, draw(ours))
    losses = [
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["loss"] for folder in (tmp_path, adapter)
    ]
    assert losses[0] != losses[1]


def test_validation_finds_the_best_step(run, settings, tmp_path) -> None:
    ours = (
        *settings, "validation=toybox", "validation.every=2", "validation.jobs.num_subjects=2", "checkpoint_every=2",
        "validation.artist.num_inference_steps=2", f"output_dir={tmp_path}",
    )  # fmt: skip
    said = run("train", *ours)
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").open()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all({"CP", "PF", "CPxPF"} <= line.keys() for line in lines)
    best = read_manifest(tmp_path, "train")["best"]
    assert best["CPxPF"] == pytest.approx(max(line["CPxPF"] for line in lines), abs=1e-6)
    assert {file.name for file in (tmp_path / "samples").iterdir()} == {"step-00000002.png", "step-00000004.png"}
    assert (tmp_path / "best" / "adapter.safetensors").exists()
    assert "look at" in said

    first, last = checkpoints(tmp_path / "checkpoints")
    write_json(first / "state.json", {"step": 2, "best": 2.0, "best_step": 2})  # better than anything can be
    shutil.rmtree(last)
    (tmp_path / "manifest.json").unlink()
    run("train", *ours)
    assert read_manifest(tmp_path, "train")["best"] == {"step": 2, "CPxPF": 2.0}, (
        "a run that goes on remembers its best"
    )


def test_a_memory_budget_recomputes_no_more_blocks_than_it_must(run, settings, adapter, tmp_path) -> None:
    student = build_student(load_pipeline(TEACHER).transformer, CanvasStudent(), 8, 8)
    canvas = Canvas(4, 8)
    double = kept_bytes(FAMILY, student, student.transformer_blocks[0], 4, canvas.num_tokens, 56)
    single = kept_bytes(FAMILY, student, student.single_transformer_blocks[0], 4, canvas.num_tokens, 56)
    every = double * len(student.transformer_blocks) + single * len(student.single_transformer_blocks)
    budgets = {0.0: 9, (every - double) / 1e9: 1, every / 1e9: 0}
    assert {
        budget: recompute_blocks(FAMILY, student, budget, 4, canvas.num_tokens, 56) for budget in budgets
    } == budgets
    said = run("train", *settings, "activation_gb=0", f"output_dir={tmp_path}")
    assert "9 of 9 blocks are computed twice" in said
    ours, theirs = (load_file(folder / "adapter.safetensors") for folder in (tmp_path, adapter))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=1e-4)


def test_a_loss_that_is_no_number_stops_the_run(refused, run, settings, tmp_path) -> None:
    said = refused(
        "train",
        *settings,
        "learning_rate=1e30",
        "warmup_steps=0",
        "max_grad_norm=1e30",
        "checkpoint_every=1",
        f"output_dir={tmp_path}",
    )
    assert "the loss of step " in said
    assert "of the pairs " in said
    assert "the last checkpoint is good" in said
    (kept, *_) = sorted((tmp_path / "checkpoints").iterdir(), reverse=True)
    assert f"the loss of step {int(kept.name.removeprefix('step-'))} " in said


def test_a_checkpoint_of_another_adapter_is_refused(run, refused, settings, tmp_path) -> None:
    run("train", *settings, f"output_dir={tmp_path}", "num_steps=2")
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "config.yaml").unlink()
    said = refused("train", *settings, f"output_dir={tmp_path}", "num_steps=2", "lora.rank=8")
    assert "a checkpoint of another base or adapter" in said


def test_the_cache_can_be_filled_in_parts(run, settings, pairs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dsd.train.data.table.BLOCK", 50)
    encode = (*settings, "mode=encode", "num_shards=2", f"cache_dir={tmp_path / 'c'}", f"output_dir={tmp_path / 'o'}")
    for shard in (1, 0):
        assert f"part {shard} of 2 is encoded" in run("train", *encode, f"shard={shard}")
    said = run("train", *settings, f"cache_dir={tmp_path / 'c'}", f"output_dir={tmp_path / 'o'}", "num_steps=1")
    assert "encoding" not in said


def test_trained_names_are_the_file_s(adapter) -> None:
    """peft's own naming of the tensors in a file, and of the parameters in a model."""
    from peft.utils import get_peft_model_state_dict

    student = build_student(load_pipeline(str(BASE)).transformer, CanvasStudent(), 4, 4, use_dora=True)
    from dsd.models.adapter import adapter_state

    ours = adapter_state({name: p.detach() for name, p in trainable_parameters(student).items()})
    theirs = {f"transformer.{name}": tensor for name, tensor in get_peft_model_state_dict(student).items()}
    assert ours.keys() - {"c_embedder.weight", "c_embedder.bias"} == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cache=some", "cache: invalid value 'some', expected one of [all, latents, off]"),
        ("student.positions=spiral", "student.positions=spiral is unknown to canvas; choose one of column, diagonal"),
        ("num_shards=2", "num_shards=2 divides mode=encode alone"),
        ("data=uno_1m", "data.path"),
        ("buckets=[[30,30]]", "positive multiples of"),
        ("lora.rank=-1", "lora.rank=-1: at least 0 is needed"),
        ("quantization=fp8", "expected one of [none, nf4, int8, fp8_weights]"),
        ("quantization=nf4", "quantization=nf4 needs a GPU"),
        ("lora.targets=some_heads", "expected one of [attention, all_linear]"),
        ("loggers=[tape]", "loggers[0]: invalid value 'tape'"),
        ("validation=toybox validation.metric=XY", "validation.metric=XY: not measured; choose one of CP, "),
        ("init_adapter=nowhere", "init_adapter=nowhere: no such adapter"),
        ("optimizer.betas=[2,2]", "optimizer: Invalid beta parameter"),
        ("optimizer=prodigy", "optimizer=prodigy needs the package prodigyopt: pip install prodigyopt"),
    ],
)
def test_bad_input_is_one_line(refused, settings, tmp_path, override, words) -> None:
    assert words in refused("train", *settings, *override.split(" "), f"output_dir={tmp_path}")


@pytest.mark.parametrize("experiment", ["paper", "single_80gb", "qlora_24gb"])
def test_experiments_run_in_shrunken_form(run, pairs, adapter, tmp_path, experiment) -> None:
    """As they are but for the model, the number of steps, and what needs a GPU."""
    run(
        "train", f"experiment={experiment}/train", "model=toybox", f"pairs={pairs}", f"cache_dir={adapter / 'cache'}",
        "num_steps=1", "batch_size=2", "accumulation=2", "lora.rank=4", "mixed_precision='no'",
        "compile=false", "quantization=none", "optimizer=adamw", "device=cpu", "lora.alpha=4", f"output_dir={tmp_path}",
    )  # fmt: skip
    assert (tmp_path / "adapter.safetensors").exists()


def test_what_a_step_costs_at_flux_shape() -> None:
    """37.7 TFLOP a forward of 2,560 tokens, 103.6 a step of rank 512 on all matrices of the blocks."""
    transformer = random_flux_dev(torch.bfloat16, "meta").transformer
    assert sum(forward_flops(transformer, 2048, 512)) / 1e12 == pytest.approx(37.7, abs=0.1)
    assert sum(forward_flops(transformer, 4096, 512)) / 1e12 == pytest.approx(74.4, abs=0.2)
    student = build_student(transformer, CanvasStudent(), 512, 512, "all_linear")
    assert sum(p.numel() for p in trainable_parameters(student).values()) / 1e9 == pytest.approx(2.09, abs=0.01)
    assert lora_step_flops(student, 2048, 512) / 1e12 == pytest.approx(103.6, abs=0.3)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("warmup_steps=-1", "warmup_steps=-1: at least 0 is needed"),
        ("ema_half_life=0", "ema_half_life=0.0: more than 0 is needed"),
        ("ema_half_life=nan", "ema_half_life=nan: a finite number is needed"),
        ("max_grad_norm=0", "max_grad_norm=0.0: more than 0 is needed"),
        ("max_grad_norm=inf", "max_grad_norm=inf: a finite number is needed"),
        ("learning_rate=nan", "learning_rate=nan: a finite number is needed"),
        ("decay=1.5", "decay=1.5: at most 1 is allowed"),
        ("text_dropout=-0.1", "text_dropout=-0.1: at least 0 is needed"),
        ("condition_dropout=nan", "condition_dropout=nan: a finite number is needed"),
        ("guidance_scale=-1", "guidance_scale=-1.0: at least 0 is needed"),
        ("keep_checkpoints=0", "keep_checkpoints=0: at least 1 is needed"),
        ("timeout_minutes=0", "timeout_minutes=0.0: more than 0 is needed"),
        ("activation_gb=-1", "activation_gb=-1.0: at least 0 is needed"),
        ("lora.alpha=0", "lora.alpha=0.0: more than 0 is needed"),
        ("buckets=[[512]]", "buckets: [512] is no [height, width] of positive multiples of 16 pixels"),
        ("buckets=[[512,500]]", "buckets: [512, 500] is no [height, width]"),
        ("buckets=[[0,16]]", "buckets=0: at least 1 is needed"),
        ("sigmas.shift=0", "sigmas.shift=0: more than 0 is needed"),
        ("sigmas.shift=nan", "sigmas.shift=nan: a finite number is needed"),
        ("sigmas.shift=far", "sigmas.shift=far: a number is needed"),
        ("sigmas.std=-1", "sigmas.std=-1: at least 0 is needed"),
        ("sigmas.mean=true", "sigmas.mean=True: a number is needed"),
        ("optimizer.weight_decay=-1", "optimizer.weight_decay=-1: at least 0 is needed"),
        ("objective=sfo objective.beta=0", "objective.beta=0: more than 0 is needed"),
        ("data=dsd_data data.num=0", "data.num=0: at least 1 is needed"),
        ("validation=toybox validation.every=0", "validation.every=0: at least 1 is needed"),
        ("validation=toybox validation.artist.batch_size=0", "validation.artist.batch_size=0: at least 1 is needed"),
    ],
)
def test_numbers_out_of_range_are_refused(refused, tmp_path, override, words) -> None:
    assert words in refused("train", *override.split(" "), f"pairs={tmp_path}", f"output_dir={tmp_path / 'out'}")


def test_what_a_training_read_is_known_by_content(run, refused, pairs, adapter, tmp_path) -> None:
    """Pairs that were moved are the same, and pairs that were edited are others, whatever their path."""
    settings = ("student=canvas", "num_steps=4", "batch_size=4", "log_every=2", "learning_rate=1e-3", "device=cpu")
    moved = shutil.copytree(pairs, tmp_path / "moved")
    assert "done already" in run("train", f"pairs={moved}", f"output_dir={adapter}", *settings)
    (shard, *_) = sorted((moved / "pairs").glob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    said = refused("train", f"pairs={moved}", f"output_dir={adapter}", *settings)
    assert "belongs to another config (inputs.pairs: " in said
    said = refused("train", f"pairs={pairs}", f"output_dir={adapter}", f"init_adapter={adapter}", *settings)
    assert "inputs.init_adapter: absent there, " in said


def test_broken_pairs_are_left_out_of_a_training(run, refused, settings, tmp_path) -> None:
    """data=dsd_data with a null image and a missing file ended in a traceback."""
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    good = {"image": str(tmp_path / "a.png"), "conditioning": str(tmp_path / "a.png"), "caption": "a critter"}
    rows = [good, {**good, "image": None}, {**good, "conditioning": "/nowhere.png"}, {**good, "caption": None}, good]
    ours = ("data=dsd_data", f"data.path={tmp_path / 'a.jsonl'}", "num_steps=1", f"cache_dir={tmp_path / 'cache'}")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = run("train", *settings, *ours, f"output_dir={tmp_path / 'out'}")
    assert "3 pairs are left out, such as number 1: no target picture; number 2: /nowhere.png: no such file" in said
    assert (
        read_manifest(tmp_path / "out", "train")["counts"] | {"pairs": 2, "left_out": 3}
        == read_manifest(tmp_path / "out", "train")["counts"]
    )
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows[1:4]))
    assert "none of its 3 pairs can be read; pair 0: no target picture" in refused(
        "train", *settings, *ours, f"output_dir={tmp_path / 'none'}"
    )


@pytest.mark.process
def test_two_trainings_do_not_share_a_folder(refused, spawn, pairs, adapter, tmp_path) -> None:
    """The second one doubled every line of metrics.jsonl."""
    settings = (
        f"pairs={pairs}", f"cache_dir={adapter / 'cache'}", "batch_size=4", "log_every=1", "device=cpu",
        "num_steps=1000", f"output_dir={tmp_path}",
    )  # fmt: skip
    first = spawn("-m", "dsd.train", *settings, stderr=subprocess.DEVNULL)
    while not (tmp_path / "metrics.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.05)
    said = refused("train", *settings)
    assert f"process {first.pid} on " in said
    assert "is at work here (dsd-train); wait for it" in said
    first.terminate()
    assert first.wait() == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert steps == list(range(1, len(steps) + 1))
