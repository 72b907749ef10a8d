"""Inputs that are broken or made to harm: each is one job's failure or one line, and nothing is lost or drawn wrong."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import EpsImagePlugin, Image

from dsd.errors import UserError
from dsd.infer import methods
from dsd.infer.draw import Drawer
from dsd.io.pictures import read_picture
from dsd.models.tensors import read_tensors, write_tensors
from dsd.pipeline.jobs import Job, JobList, content_of
from dsd.runs.shards import Failure, Shard, read_failures

EXAMPLES = Path(__file__).parents[2] / "examples"
REFERENCE = f"image={EXAMPLES / 'critter-1.png'}"
QUICK = ("settings.num_inference_steps=1", "device=cpu")


def encoded(kind: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, kind)
    return buffer.getvalue()


def test_pictures_of_one_name_in_two_folders_are_both_kept(run, adapter, tmp_path) -> None:
    for folder, number in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        shutil.copy(EXAMPLES / f"critter-{number}.png", tmp_path / folder / "robot.png")
        run("infer", f"image={tmp_path / folder / 'robot.png'}", "prompt=beach", f"adapter={adapter}",
            f"output_dir={tmp_path / 'out'}", *QUICK)  # fmt: skip
    assert len(list((tmp_path / "out").glob("robot-*.png"))) == 2


def test_a_broken_picture_is_one_job_s_failure(run, adapter, tmp_path) -> None:
    """Also one name with two endings, a pipe, a link that never ends, and PostScript named .png."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    shutil.copy(EXAMPLES / "critter-1.png", jobs / "robot.png")
    jpeg = encoded("JPEG")
    (jobs / "robot.jpg").write_bytes(jpeg)
    (jobs / "exif.jpg").write_bytes(jpeg[:2] + b"\xff\xe1\x00\x20Exif\0\0" + b"\xff" * 24 + jpeg[2:])
    for kind in ("GIF", "BMP", "TIFF", "WEBP"):
        (jobs / f"fine.{kind.lower()}").write_bytes(encoded(kind))
    (jobs / "dds.png").write_bytes(encoded("DDS")[:128])
    (jobs / "eps.png").write_bytes(encoded("EPS"))
    (jobs / "odd.avif").write_bytes(b"\0\0\0\x1cftypavif" + b"\0" * 40)
    os.mkfifo(jobs / "pipe.png")
    (jobs / "loop.png").symlink_to("loop.png")
    (jobs / "zero.png").symlink_to("/dev/zero")
    (jobs / "folder.png").mkdir()
    said = run("infer", "jobs=folder", f"jobs.path={jobs}", "jobs.prompt=beach", f"adapter={adapter}",
               f"output_dir={tmp_path / 'out'}", *QUICK)  # fmt: skip
    assert "7 pictures by student (7 failed)" in said
    failed = [row["job"] for row in read_failures(tmp_path / "out", "results")]
    assert failed == ["dds.png", "eps.png", "folder.png", "loop.png", "odd.avif", "pipe.png", "zero.png"]
    assert {f.name for f in (tmp_path / "out" / "images").iterdir()} >= {"robot.png", "robot-2.png", "exif.png"}


def test_a_command_starts_no_ghostscript(refused, adapter, monkeypatch) -> None:
    """Pictures of a data set are decoded by other libraries, which know no list of formats."""
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    refused("infer", REFERENCE, "prompt=a", f"adapter={adapter}", "settings.num_inference_steps=1", "device=cuda:99")
    with pytest.raises(OSError, match="Ghostscript"):
        Image.open(BytesIO(encoded("EPS"))).load()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_format_of_the_list_is_read(kind: str) -> None:
    assert read_picture(encoded(kind)).size == (40, 40)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"job": ""}, "job: String should have at least 1 character"),
        ({"job": "x" * 400}, "job: String should have at most 200 characters"),
        ({"prompt": None}, "prompt: Input should be a valid string"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0"),
        ({"seed": 2**64}, "seed: "),
        ({"reference": ""}, "reference: the name of a file is needed, or a list of such names"),
        ({"reference": []}, "reference: 0 references; a picture takes 1 to 4"),
        ({"sead": 1}, "sead: Extra inputs are not permitted"),
        ({"reference": "x" * 300}, "all 1 jobs failed, the first because: "),
        ({"reference": "a\0b"}, "all 1 jobs failed, the first because: "),
        ({"reference": "/"}, "not a regular file"),
    ],
)
def test_a_wrong_job_is_one_line(refused, adapter, tmp_path, change, words) -> None:
    (tmp_path / "jobs.jsonl").write_text(json.dumps({"reference": "a.png", "prompt": "beach"} | change) + "\n")
    said = refused("infer", "jobs=jsonl", f"jobs.path={tmp_path / 'jobs.jsonl'}", f"adapter={adapter}",
                   f"output_dir={tmp_path / 'out'}", *QUICK)  # fmt: skip
    assert words in said


def test_edited_jobs_are_refused(run, refused, adapter, tmp_path) -> None:
    lines = tmp_path / "jobs.jsonl"
    ask = ("infer", "jobs=jsonl", f"jobs.path={lines}", "method=copy_paste", f"output_dir={tmp_path / 'out'}", *QUICK)
    lines.write_text(json.dumps({"reference": str(EXAMPLES / "critter-1.png"), "prompt": "beach"}) + "\n")
    run(*ask)
    assert "done already" in run(*ask)
    lines.write_text(json.dumps({"reference": str(EXAMPLES / "critter-1.png"), "prompt": "forest"}) + "\n")
    assert "inputs.jobs: " in refused(*ask)


def test_an_unreadable_reference_does_not_stop_the_listing(tmp_path) -> None:
    assert content_of(Job("a", tmp_path / ("x" * 300), "p")) != content_of(Job("b", tmp_path / ("x" * 300), "p"))


Change = Callable[[dict, dict], object]
DAMAGE: dict[str, tuple[Change, str]] = {
    "no B": (lambda s, m: s.pop(next(n for n in s if "lora_B" in n)), "1 tensors are missing"),
    "shape": (lambda s, m: s.update({"c_embedder.weight": torch.zeros(3, 3)}), "has shape (3, 3) instead of"),
    "NaN": (lambda s, m: s["c_embedder.bias"].fill_(float("nan")), "holds NaN or infinity"),
    "infinity": (lambda s, m: s["c_embedder.bias"].fill_(float("inf")), "holds NaN or infinity"),
    "integers": (lambda s, m: s.update({"c_embedder.bias": s["c_embedder.bias"].long()}), "instead of floating-point"),
    "unknown": (lambda s, m: s.update({"transformer.x.lora_A.weight": torch.zeros(2)}), "1 unknown tensors"),
    "no LoRA": (lambda s, m: [s.pop(n) for n in list(s) if "lora" in n], "tensors are missing"),
    "no metadata": (lambda s, m: m.clear(), "an adapter that dsd-train wrote is needed"),
    "metadata": (lambda s, m: m.update(lora="{"), "its metadata is not JSON"),
    "rank": (lambda s, m: m.update(lora=m["lora"].replace('"rank": ', '"rank": 1')), "instead of"),
    "positions": (lambda s, m: m.update(student='{"positions": "x"}'), "its metadata is damaged"),
    "base": (lambda s, m: m.update(base='{"path": "x", "fingerprint": "0"}'), "made for another base"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_adapter_is_one_line(refused, adapter, tmp_path, name) -> None:
    state, metadata = read_tensors(adapter / "adapter.safetensors")
    change, words = DAMAGE[name]
    change(state, metadata)
    write_tensors(tmp_path / "a.safetensors", state, metadata)
    said = refused("infer", REFERENCE, "prompt=a", f"adapter={tmp_path / 'a.safetensors'}",
                   f"output={tmp_path / 'a.png'}", *QUICK)  # fmt: skip
    assert words in said
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["style_loras=[{tmp}/x.bin:1]"], "weights are read from .safetensors files only"),
        (["style_loras=[x.pt]"], "no such file"),
        (["style_loras=[{tmp}/x.safetensors:1]"], "not a whole safetensors file"),
        (["style_loras=['']"], "an empty name"),
        (["style_loras=[{tmp}/x.safetensors:nan]"], "the weight is not a finite number"),
        (["style_loras=[{tmp}/folder]"], "not a LoRA of this base"),
        (["shard=-1"], "shard=-1: at least 0"),
        (["num_shards=0"], "num_shards=0: at least 1"),
        (["shard=1"], "shard=1 is outside 0..0"),
        (["seed=-1"], "seed=-1: at least 0"),
        (["settings.width=999999984"], "at most 16384"),
        (["settings.guidance_scale=1e40"], "at most"),
        (["settings.max_sequence_length=100000"], "at most 4096"),
        (["speed.step_cache=-1"], "speed.step_cache=-1: a number above 0"),
        (["gguf_kind=Q9"], "gguf_kind=Q9 is unknown"),
        (["speed=null"], "was set to no choice"),
        (["output={tmp}/folder"], "is no picture format"),
        (["output={tmp}/folder.png"], "is a folder"),
        (["output={tmp}/" + "x" * 250 + ".png"], "File name too long"),
        (["output=/proc/x/a.png"], "No such file or directory"),
    ],
)
def test_a_setting_that_cannot_work_is_one_line(refused, adapter, tmp_path, overrides, words) -> None:
    for name in ("x.bin", "x.safetensors"):
        (tmp_path / name).write_bytes(b"abc")
    for name in ("folder", "folder.png"):
        (tmp_path / name).mkdir()
    (tmp_path / "folder" / "pytorch_lora_weights.safetensors").write_bytes(b"abc")
    given = [o.replace("{tmp}", str(tmp_path)) for o in overrides]
    asked = {"image": REFERENCE[6:], "prompt": "a", "adapter": adapter, "output_dir": tmp_path / "out"}
    assert words in refused("infer", *(f"{k}={v}" for k, v in asked.items()), *QUICK, *given)


@pytest.mark.parametrize("method", ["student", "text_only"])
def test_a_transformer_that_returns_nan_draws_nothing(refused, adapter, tmp_path, monkeypatch, method) -> None:
    made = getattr(methods, "Student" if method == "student" else "TextOnly")
    original = made.__init__

    def damaged(self, parts, name: str, takes_adapter: bool) -> None:
        original(self, parts, name, takes_adapter)
        with torch.no_grad():
            self.pipeline.transformer.proj_out.bias.fill_(float("nan"))

    monkeypatch.setattr(made, "__init__", damaged)
    ask = (REFERENCE, "prompt=a", f"method={method}", f"adapter={adapter}", f"output={tmp_path / 'a.png'}", *QUICK)
    assert "NaN" in refused("infer", *ask)
    assert not (tmp_path / "a.png").exists()


def test_a_job_that_fails_in_a_batch_leaves_its_neighbours(tmp_path) -> None:
    picture = Image.new("RGB", (8, 8))

    def method(references, prompts, seeds) -> list[Image.Image]:
        if "bad" in prompts:
            raise UserError("the transformer returned NaN")
        return list(references)

    method.most_references = None
    jobs = JobList([Job(str(i), picture, prompt) for i, prompt in enumerate(("a", "bad", "c"))], [])
    drawer = Drawer(jobs, lambda reference, prompt: prompt, method, "m", 0, 8, "hash")
    ((stop, rows),) = drawer.parts(Shard(0, 0, 3, tmp_path), type("Bar", (), {"update": lambda self, n: None})(), 0)
    assert stop == 3
    assert [isinstance(row, Failure) for row in rows] == [False, True, False]


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["data_gen", "infer"])
def test_torchrun_divides_the_work_on_a_cpu(stage, adapter, tmp_path) -> None:
    ask = {
        "data_gen": ["teacher=oracle", "num_grids=4", "rows_per_shard=1"],
        "infer": ["jobs=folder", f"jobs.path={EXAMPLES}", f"adapter={adapter}", "rows_per_shard=1", *QUICK],
    }[stage]
    out = tmp_path / "out"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    done = subprocess.run([*torchrun, f"dsd.{stage}", *ask, f"output_dir={out}"], capture_output=True, text=True,
                          check=False, timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "manifest.json").read_text())["counts"]["failed"] == 0
    assert len(list(out.glob("*-of-00004.stats.json"))) == 4
    assert len(list((out / ".locks").glob(f"{stage}-*.lock"))) == 2
