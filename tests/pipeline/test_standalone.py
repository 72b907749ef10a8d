"""A saved pipeline carries its code: it loads and draws where this package is not installed."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from worlds_of_families import random_base

from dsd.pipeline import standalone
from dsd.pipeline.pipeline import CLASSES, DSDPipeline

DATA = Path(__file__).parents[1] / "data" / "published_tiny"
REFERENCE = Path(__file__).parents[2] / "examples" / "critter-1.png"
CALL = {"height": 64, "width": 64, "num_inference_steps": 3, "max_sequence_length": 48, "output_type": "latent",
        "text_guidance_scale": 2.0, "image_guidance_scale": 1.5, "no_cfg_until_timestep": 1}  # fmt: skip
MEMORY = [("flux2", "cached")] if hasattr(diffusers, "Flux2KleinKVPipeline") else []  # diffusers 0.38 and newer
DRAW = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "dsd":
            raise ModuleNotFoundError(f"{name} is not installed")

sys.meta_path.insert(0, Absent())
import json
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import save_file

reference, call, out, *folders = sys.argv[1:]
pipelines = {
    folder: DiffusionPipeline.from_pretrained(
        folder.removesuffix("@"), trust_remote_code=True,
        **({"custom_pipeline": folder.removesuffix("@")} if folder.endswith("@") else {}),
    ) for folder in folders
}
for number, pipeline in enumerate(pipelines.values()):
    generator = torch.Generator().manual_seed(3)
    latents = pipeline("a dog", Image.open(reference), generator=generator, **json.loads(call)).images
    save_file({"latents": latents.contiguous(), "dtype": torch.zeros(1)}, f"{out}/{number}.safetensors")
pipeline.save_pretrained(f"{out}/again")
print(*(type(pipeline).__name__ for pipeline in pipelines.values()))
"""


def students(folder: Path) -> dict[Path, object]:
    """A saved pipeline of every kind: a canvas, and reference tokens of every family and attention."""
    model = DATA / "dsd_model"
    lora = model / "pytorch_lora_weights.safetensors"
    made = {folder / "canvas": DSDPipeline.from_base(str(DATA / "base"), transformer=model / "transformer", lora=lora)}
    for family, attention in (("flux1", "cached"), *MEMORY, ("flux2", "full"), ("z_image", "full")):
        base = random_base(family)
        parts = {name: part for name, part in base.components.items() if part is not None}
        pipeline = CLASSES[family](**parts)
        pipeline.about = {"kind": "tokens", "family": family, "attention": attention}
        made[folder / f"{family}-{attention}"] = pipeline
    for path, pipeline in made.items():
        pipeline.save_pretrained(path)
    return made


def without_us(*arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", DRAW, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd,
        env={**os.environ, "HF_MODULES_CACHE": str(cwd / "modules")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.process
def test_saved_pipelines_draw_the_same_without_this_package(tmp_path) -> None:
    made = students(tmp_path)
    folders = [*made, f"{tmp_path / 'z_image-full'}@"]
    said = without_us(REFERENCE, json.dumps(CALL), tmp_path, *folders, cwd=tmp_path)
    names = [type(pipeline).__name__ for pipeline in made.values()]
    assert said.splitlines()[-1].split() == [*names, names[-1]]
    for number, pipeline in enumerate([*made.values(), list(made.values())[-1]]):
        pipeline.set_progress_bar_config(disable=True)
        expected = pipeline("a dog", Image.open(REFERENCE), generator=torch.Generator().manual_seed(3), **CALL).images
        found = load_file(tmp_path / f"{number}.safetensors")["latents"]
        assert (found - expected).norm() / expected.norm() < 1e-5, names
    again = tmp_path / "again"  # saved by the pipeline that runs without us
    assert (again / "pipeline.py").read_bytes() == (tmp_path / "z_image-full" / "pipeline.py").read_bytes()
    assert json.loads((again / "model_index.json").read_text())["_class_name"] == ["pipeline", names[-1]]


def test_our_class_loads_the_folder_without_running_its_code(tmp_path) -> None:
    pipeline = CLASSES["z_image"](**random_base("z_image").components)
    pipeline.about = {"kind": "tokens", "family": "z_image"}
    pipeline.save_pretrained(tmp_path)
    (tmp_path / "pipeline.py").write_text("raise SystemExit('this code ran')")
    assert type(CLASSES["z_image"].from_pretrained(tmp_path)) is CLASSES["z_image"]
    assert type(DSDPipeline.from_base(str(tmp_path))) is CLASSES["z_image"]


@pytest.mark.parametrize("name", [cls.__name__ for cls in CLASSES.values()])
def test_the_file_is_whole_and_imports_what_diffusers_requires(name) -> None:
    text = standalone.source_of(name)
    tree = ast.parse(text)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {module.split(".")[0] for module in imported} - sys.stdlib_module_names
    assert roots <= {"torch", "diffusers", "numpy", "PIL"}
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(defined) == len(set(defined))
    assert [cls for cls in defined if cls in {c.__name__ for c in CLASSES.values()}] == [name], "diffusers wants one"
    assert "from_base" not in text.replace("DSDPipeline.from_base", "")


def test_a_hidden_name_is_refused(monkeypatch) -> None:
    """Two definitions of one name are kept apart by renaming, which a local variable of that name would spoil."""
    node = ast.parse("def f(FAMILY):\n    return FAMILY").body[0]
    with pytest.raises(ValueError, match="hides a name of the module"):
        list(standalone._spots(node, {"FAMILY": "FAMILY_flux2"}))
    monkeypatch.setattr(standalone, "parsed", lambda _: standalone.Source([], {"f": node}, {}))
    with pytest.raises(ValueError, match="another module has this name"):
        standalone._final_names([("dsd.a", "f"), ("dsd.b", "f")], set())
