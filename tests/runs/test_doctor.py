"""`dsd-doctor`: what it tells of this machine, and which experiments it says fit."""

import subprocess
import sys
from pathlib import Path

import pytest
from hub import serve_hub
from huggingface_hub import constants
from omegaconf import OmegaConf

from dsd.runs import doctor
from dsd.runs.command import CONFIG_DIR
from dsd.runs.doctor import KEYS, Machine, lacking, needs_of

EXPERIMENTS = Path(CONFIG_DIR) / "experiment"
H100 = "NVIDIA H100 80GB HBM3, 81559"


@pytest.fixture
def told(monkeypatch, capsys, tmp_path):
    """Run the command; without keys and with the GPU that a program named nvidia-smi lists."""
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)

    def told(*overrides: str, gpu: str = "") -> str:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\necho '{gpu}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setattr(sys, "argv", ["dsd-doctor", *overrides])
        with pytest.raises(SystemExit) as end:
            doctor.main()
        assert not end.value.code
        return capsys.readouterr().out

    return told


def test_a_small_machine_fits_the_toybox(told) -> None:
    said = told()
    assert "no NVIDIA GPU" in said
    (fits,) = [line for line in said.splitlines() if line.startswith("experiments")]
    assert "toybox_demo/(curation, data_gen, evaluate, infer, train)" in fits
    assert "klein/(" not in fits
    assert "missing a GPU of 80 GB; HF_TOKEN, to download flux_dev" in said
    (card,) = [line for line in said.splitlines() if line.endswith(": missing a GPU of 24 GB")]
    for experiments in (
        "klein/(curation, data_gen, infer, train)",
        "relight_klein/(",
        "structure_klein/(",
        "z_image/(",
    ):
        assert experiments in card
    assert len(said.splitlines()) <= 24, "one screen"


def test_a_large_machine_with_keys_fits_more_and_tells_no_value(told, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush-hush")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
    said = told(gpu=H100)
    assert "NVIDIA H100 80GB HBM3, 86 GB" in said
    (fits,) = [line for line in said.splitlines() if line.startswith("experiments")]
    assert "paper/(curation, data_gen, infer, train), " in fits
    assert "single_80gb/train" in fits
    assert "hush" not in said
    assert "my-project" not in said
    assert "keys             GOOGLE_CLOUD_PROJECT, HF_TOKEN; not set: GEMINI_API_KEY" in said


def test_the_hub_is_asked_only_if_wanted(told, monkeypatch) -> None:
    assert "not asked" in told()
    with serve_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        assert f"{server.url} answers with 404" in told("online=true")
    assert "cannot be reached" in told("online=true")


def test_what_an_experiment_needs_is_read_with_what_it_is_made_from() -> None:
    needs = needs_of(EXPERIMENTS / "qlora_24gb" / "train.yaml")
    assert (needs.gpu_gb, needs.quantization, needs.choices["model"]) == (24, "nf4", "flux_dev")
    assert needs_of(EXPERIMENTS / "z_image" / "train.yaml").choices["model"] == "z_image"
    small = Machine((("A 24 GB card", 25.8),), frozenset({"HF_TOKEN"}))
    assert list(lacking(needs, "train", small)) == ["pip install bitsandbytes"] * 2


@pytest.mark.parametrize(
    "file", sorted(EXPERIMENTS.glob("*/*.yaml")), ids=lambda file: f"{file.parent.name}-{file.stem}"
)
def test_experiments_on_large_models_state_their_gpu(file) -> None:
    needs = needs_of(file)
    large = not needs.choices.get("model", "toybox").startswith("toybox")
    if large and file.stem in ("data_gen", "train", "infer"):
        assert needs.gpu_gb
    if not large and "measure" not in needs.choices:
        assert needs.gpu_gb is None
    assert OmegaConf.load(file).get("gpu_gb", needs.gpu_gb) == needs.gpu_gb


def test_a_missing_or_old_package_is_told(told, monkeypatch) -> None:
    def version(name: str) -> str:
        if name == "peft":
            raise doctor.metadata.PackageNotFoundError
        return "0.1"

    monkeypatch.setattr(doctor.metadata, "version", version)
    said = told()
    assert "missing: pip install 'peft>=" in said
    assert "0.1 is out of range: pip install 'torch>=" in said


@pytest.mark.process
def test_it_starts_fast() -> None:
    code = (
        "import sys; from dsd.runs.doctor import main\ntry: main()\nexcept SystemExit: print('modules:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not {"torch", "diffusers", "transformers", "datasets"} & set(done.stdout.partition("modules:")[2].split())
