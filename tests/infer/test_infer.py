"""`dsd-infer` with an adapter that dsd-train wrote: one picture, and sets of jobs."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from dsd.pipeline.pipeline import DSDPipeline
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_failures, read_shards

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = ("settings.num_inference_steps=2", "device=cpu")


def rows_of(folder: Path) -> list[dict]:
    return read_shards(folder, "results").with_format("arrow")[:].to_pylist()


def test_one_picture_says_how_it_was_made(run, adapter, tmp_path) -> None:
    ask = (f"image={EXAMPLES / 'critter-1.png'}", "prompt='a red round critter, beach'", f"adapter={adapter}", *QUICK)
    said = run("infer", *ask, "seed=3", f"output={tmp_path / 'a.png'}")
    assert str(tmp_path / "a.png") in said
    picture = Image.open(tmp_path / "a.png")
    assert picture.size == (64, 64)
    assert picture.text["prompt"] == "a red round critter, beach"
    assert picture.text["seed"] == "3"
    assert json.loads(picture.text["settings"])["num_inference_steps"] == 2
    run("infer", *ask, "seed=3", f"output={tmp_path / 'b.png'}")
    run("infer", *ask, "seed=4", f"output={tmp_path / 'c.png'}")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


def test_a_folder_of_jobs_outlives_a_corrupt_picture(run, adapter, tmp_path) -> None:
    jobs = tmp_path / "jobs"
    shutil.copytree(EXAMPLES, jobs)
    (jobs / "critter-2.png").write_bytes((EXAMPLES / "critter-2.png").read_bytes()[:200])
    said = run(
        "infer", "jobs=folder", f"jobs.path={jobs}", f"adapter={adapter}", f"output_dir={tmp_path / 'out'}", *QUICK
    )
    (failure,) = read_failures(tmp_path / "out", "results")
    assert failure["job"] == "critter-2.png"
    assert "not a readable picture" in failure["reason"]
    assert "(1 failed)" in said
    done = read_shards(tmp_path / "out", "results")
    assert [row["job"] for row in done] == ["critter-1.png", "critter-3.png", "critter-4.png"]
    assert done[0]["prompt"] == (EXAMPLES / "critter-1.txt").read_text().strip()
    assert read_manifest(tmp_path / "out", "infer")["counts"] == {"results": 3, "failed": 1}


def test_killed_divided_and_run_again_is_unbroken(run, start, adapter, tmp_path) -> None:
    jobs = ("jobs=toybox", "jobs.num_subjects=6", "jobs.contexts_per_subject=2", f"adapter={adapter}", "device=cpu")
    ours = (*jobs, "rows_per_shard=2", f"output_dir={tmp_path / 'broken'}")
    process = start("infer", *ours, "batch_size=1")
    while not list((tmp_path / "broken" / "results").glob("results-*.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run("infer", *ours, "batch_size=1", "shard=1", "num_shards=2")
    run("infer", *ours, "batch_size=1", "shard=0", "num_shards=2")
    run("infer", *jobs, "rows_per_shard=2", "batch_size=1", f"output_dir={tmp_path / 'unbroken'}")
    assert rows_of(tmp_path / "broken") == rows_of(tmp_path / "unbroken")
    assert len({row["seed"] for row in rows_of(tmp_path / "broken")}) == 12
    assert all(json.loads(row["truth"])["belly"] for row in rows_of(tmp_path / "broken"))


@pytest.mark.parametrize("method", ["text_only", "copy_paste"])
def test_baselines_answer_the_same_jobs(run, tmp_path, method) -> None:
    run(
        "infer",
        "jobs=toybox",
        "jobs.num_subjects=2",
        f"method={method}",
        "adapter=/nowhere",
        f"output_dir={tmp_path}",
        *QUICK,
    )
    results = read_shards(tmp_path, "results")
    assert len(results) == 4
    same = [row["image"].tobytes() == row["reference"].tobytes() for row in results]
    assert all(same) if method == "copy_paste" else not any(same)


def test_multirun_leaves_one_sheet_with_labelled_axes(run, adapter, tmp_path) -> None:
    run("infer", "--multirun", f"image={EXAMPLES / 'critter-1.png'}", "prompt=beach", f"adapter={adapter}", *QUICK,
        "settings.text_guidance_scale=1,2,3", "settings.image_guidance_scale=1,1.5",
        "settings.no_cfg_until_timestep=0", f"hydra.sweep.dir={tmp_path}")  # fmt: skip
    sheet = Image.open(tmp_path / "overview.png")
    cell, pad = 256, 8
    assert sheet.height == 30 + 2 * (cell + pad)  # image_guidance_scale, the first key of the two in the config
    labels = sheet.width - 3 * (cell + pad)
    assert 100 < labels < 300
    ours = Image.open(next((tmp_path / "5").glob("*.png")))  # text 3, image 1.5
    corner = (labels + 2 * (cell + pad), 30 + cell + pad)
    assert sheet.crop((*corner, corner[0] + cell, corner[1] + cell)).resize((64, 64), 0).tobytes() == ours.tobytes()


def test_jobs_of_a_parquet_file(run, refused, adapter, tmp_path) -> None:
    cut = (EXAMPLES / "critter-2.png").read_bytes()[:200]
    rows = {
        "picture": [{"bytes": (EXAMPLES / "critter-1.png").read_bytes(), "path": None}, {"bytes": cut, "path": None}],
        "text": ["a red round critter, beach", "forest"], "seed": [7, None],
    }  # fmt: skip
    features = Features({"picture": ImageFeature(), "text": Value("string"), "seed": Value("int64")})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "jobs.parquet")
    ask = ("jobs=parquet", f"jobs.path={tmp_path / 'jobs.parquet'}", f"adapter={adapter}",
           f"output_dir={tmp_path / 'out'}", *QUICK)  # fmt: skip
    assert "no column prompt or reference; its columns: picture, text, seed" in refused("infer", *ask)
    run("infer", *ask, "jobs.reference=picture", "jobs.prompt=text")
    (done,), (failure,) = rows_of(tmp_path / "out"), read_failures(tmp_path / "out", "results")
    assert (done["seed"], done["prompt"]) == (7, "a red round critter, beach")
    assert failure["reason"].startswith("reference of 00001: not a readable picture")
    (file,) = (tmp_path / "out" / "images").iterdir()
    assert Image.open(file).text["seed"] == "7"


def test_a_picture_of_any_kind_is_a_reference(run, refused, adapter, tmp_path) -> None:
    """An animation's first frame, 16 bits, CMYK, one pixel, a very wide one; and one that is too large to be read."""
    for name, image, more in (
        ("moving.gif", Image.new("P", (40, 40)), {"save_all": True, "append_images": [Image.new("P", (40, 40), 1)]}),
        ("deep.png", Image.fromarray(np.full((40, 40), 40000, np.uint16)), {}),
        ("print.jpg", Image.new("CMYK", (40, 40)), {}),
        ("dot.png", Image.new("RGB", (1, 1)), {}),
        ("wide.png", Image.new("L", (20000, 30)), {}),
    ):
        image.save(tmp_path / name, **more)
    said = run("infer", "jobs=folder", f"jobs.path={tmp_path}", "jobs.prompt=beach", f"adapter={adapter}",
               f"output_dir={tmp_path / 'out'}", *QUICK)  # fmt: skip
    assert "5 pictures by student (0 failed)" in said
    Image.new("1", (20000, 20000)).save(tmp_path / "huge.png")
    ask = (f"image={tmp_path / 'huge.png'}", "prompt=beach", f"adapter={adapter}")
    assert "huge.png: not a readable picture (Image size (400000000 pixels)" in refused("infer", *ask)


def test_a_prompt_that_is_too_long_is_said_to_be_cut(run, adapter, tmp_path) -> None:
    said = run("infer", f"image={EXAMPLES / 'critter-1.png'}", f"prompt={'beach ' * 1700}", f"adapter={adapter}",
               f"output={tmp_path / 'a.png'}", *QUICK)  # fmt: skip
    assert 'the prompt "beach beach' in said
    assert "the model reads the first 24" in said


def test_bad_input_is_one_line(refused, run, adapter, tmp_path) -> None:
    good = {
        "image": EXAMPLES / "critter-1.png", "prompt": "beach", "adapter": adapter, "output_dir": tmp_path / "out",
    }  # fmt: skip

    def ask(**changes: object) -> str:
        return refused(
            "infer", *QUICK, *(f"{key}={value}" for key, value in (good | changes).items() if value is not None)
        )

    assert "prompt is empty" in ask(prompt="'  '")
    assert "nothing to draw" in ask(prompt=None)
    assert "no such picture" in ask(image=tmp_path / "none.png")
    assert "no such adapter" in ask(adapter=tmp_path)
    assert "no adapter" in ask(adapter=None)
    (tmp_path / "text.png").write_text("not a picture")
    assert "text.png: not a readable picture" in ask(image=tmp_path / "text.png")
    (tmp_path / "cut.safetensors").write_bytes((adapter / "adapter.safetensors").read_bytes()[:1000])
    assert "not a whole safetensors file" in ask(adapter=tmp_path / "cut.safetensors")
    base = Path(__file__).parents[1] / "data" / "published_tiny" / "base"
    assert "another base" in ask(**{"model.path": base})
    assert "is no picture format; end the name with .png" in ask(output=tmp_path / "a.xyz")
    assert "speed.attention_backend=warp" in ask(**{"speed.attention_backend": "warp"})
    assert "offload=model moves weights to a GPU" in ask(offload="model")
    assert "use offload=model or offload=group" in ask(offload="sequential", quantization="int8")
    assert "use offload=model with nf4" in ask(offload="group", quantization="nf4")
    assert "quantization=nf4 needs a GPU" in ask(quantization="nf4")
    assert "needs fused LoRA" in ask(quantization="int8", **{"speed.fuse": False})
    assert "this machine shows 0 CUDA devices" in ask(device="cuda:0") or torch.cuda.is_available()
    assert "vlm=gemini needs GEMINI_API_KEY" in ask(vlm="gemini")
    assert "seed=-1: at least 0" in ask(seed=-1)
    assert "batch_size=0: at least 1" in ask(batch_size=0)
    assert "ink.safetensors: no such file" in ask(style_loras=f"[{tmp_path}/ink.safetensors:0.5]")
    assert "settings.height=50" in ask(**{"settings.height": 50})
    assert "settings.text_guidance_scale=nan: a finite number" in ask(**{"settings.text_guidance_scale": "nan"})
    assert not (tmp_path / "out").exists()

    lines = tmp_path / "jobs.jsonl"
    for line, words in (
        ('{"reference": "a.png", "prompt": "beach", "sead": 1}', "sead: Extra inputs are not permitted"),
        ('{"reference": "a.png", "prompt": " "}', "the prompt is empty"),
        ('{"reference": "a.png"', "jobs.jsonl:1: Invalid JSON"),
    ):
        lines.write_text(line + "\n")
        assert words in refused(
            "infer", "jobs=jsonl", f"jobs.path={lines}", f"adapter={adapter}", f"output_dir={tmp_path}"
        )
    lines.write_text('{"reference": "a.png", "prompt": "beach"}\n')
    everything = f"output_dir={tmp_path / 'failed'}"
    said = refused("infer", "jobs=jsonl", f"jobs.path={lines}", f"adapter={adapter}", everything, *QUICK)
    assert "all 1 jobs failed" in said


def test_a_released_checkpoint_draws_the_released_picture(run, tmp_path) -> None:
    """Case 1 of published_tiny began with the noise of seed 1: the same picture to a grey level."""
    tiny = Path(__file__).parents[1] / "data" / "published_tiny"
    model, case = tiny / "dsd_model", json.loads((tiny / "cases.json").read_text())[1]
    settings = {
        "num_inference_steps": case["steps"], "guidance_scale": case["guidance"], "height": 512, "width": 512,
        "image_guidance_scale": case["i_guidance"], "text_guidance_scale": case["t_guidance"],
        "max_sequence_length": 512,
    }  # fmt: skip
    run("infer", f"model.path={tiny / 'base'}", f"transformer={model / 'transformer'}", "device=cpu", "seed=1",
        f"lora_weights={model / 'pytorch_lora_weights.safetensors'}", f"image={tiny / 'reference.png'}",
        f"prompt={case['text']}", *(f"settings.{k}={v}" for k, v in settings.items()),
        f"output={tmp_path / 'a.png'}")  # fmt: skip
    ours = Image.open(tmp_path / "a.png")
    assert ours.text["prompt"] == "this item on the moon, at night"
    released = np.asarray(Image.open(tiny / "expected_1.png"), np.int16)
    assert np.abs(np.asarray(ours, np.int16) - released).max() <= 1


def test_a_saved_pipeline_needs_no_adapter(run, refused, adapter, tmp_path) -> None:
    DSDPipeline.from_base("pkg://dsd.toybox/weights/teacher", adapter).save_pretrained(tmp_path / "saved")
    ask = (f"image={EXAMPLES / 'critter-1.png'}", "prompt=beach", *QUICK)
    run("infer", *ask, f"model.path={tmp_path / 'saved'}", f"output={tmp_path / 'saved.png'}")
    run("infer", *ask, f"adapter={adapter}", f"output={tmp_path / 'adapter.png'}")
    pictures = [np.asarray(Image.open(tmp_path / name), np.int16) for name in ("saved.png", "adapter.png")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert "no adapter: pkg://dsd.toybox/weights/teacher takes no reference" in refused("infer", *ask)
