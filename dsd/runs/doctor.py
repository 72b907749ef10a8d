"""`dsd-doctor`: what this machine has, which experiments fit it, and what is missing, on one screen.

Nothing heavy is imported and nothing is loaded. An experiment says what it needs in its own file: `gpu_gb`, the
services that it asks (`vlm`), its quantisation and its model.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from dsd.runs.command import CONFIG_DIR, command
from dsd.runs.redaction import redact
from dsd.runs.settings import setting

PACKAGES = ("torch", "diffusers", "transformers", "peft", "huggingface-hub", "hydra-core")
SERVICES = {  # by the choice of vlm=: any of these keys will do
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_CLOUD_PROJECT"),
    "gemini_legacy": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "openai": ("OPENAI_API_KEY",),
}
KEYS = tuple(dict.fromkeys(["HF_TOKEN", *(key for keys in SERVICES.values() for key in keys), "WANDB_API_KEY"]))
QUANTIZERS = {"nf4": "bitsandbytes", "gguf": "gguf", "int8": "torchao", "fp8": "torchao", "fp8_weights": "torchao"}
OPTIMIZERS = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}
FREE = ("apache-2.0", "mit")  # licences that nobody has to accept before a download
PATIENCE = 3  # seconds for the hub's answer


@dataclass
class DoctorSettings:
    """Say what this machine has, which experiments fit it, and what is missing; nothing is changed."""

    examples: ClassVar[tuple[str, ...]] = ("dsd-doctor", "dsd-doctor online=true")
    closing: ClassVar[str] = "Keys are told by their names, never by their values."

    online: bool = setting("ask the hub for a sign of life", False)


@dataclass(frozen=True)
class Machine:
    """What decides on experiments."""

    gpus: tuple[tuple[str, float], ...]  # name, memory in GB (10^9 bytes)
    keys: frozenset[str]
    packages: frozenset[str] = field(default_factory=frozenset)  # of QUANTIZERS and OPTIMIZERS, those installed


@dataclass(frozen=True)
class Needs:
    """What an experiment states."""

    gpu_gb: float | None
    choices: dict[str, str]  # of its groups, by group
    quantization: str


def run(cfg: DictConfig) -> None:
    """Print the screen."""
    extras = sorted({*QUANTIZERS.values(), *OPTIMIZERS.values()})
    present = frozenset(name for name in extras if importlib.util.find_spec(name))
    machine = Machine(tuple(gpus()), frozenset(filter(os.environ.get, KEYS)) | stored_token(), present)
    absent = [key for key in KEYS if key not in machine.keys]
    keys = ", ".join(sorted(machine.keys)) or "none"
    told = [
        ("GPU", ", ".join(f"{name}, {gb:.0f} GB" for name, gb in machine.gpus) or "no NVIDIA GPU"),
        ("torch for", f"CUDA {cuda}" if (cuda := torch_cuda()) else "the CPU alone"),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"),
        ("disk", f"{shutil.disk_usage('.').free / 1e9:.0f} GB free here"),
        *versions_told(),
        ("keys", keys + (f"; not set: {', '.join(absent)}" if absent else "")),
        ("hub", hub_told(cfg.online)),
        *experiments_told(machine),
    ]
    print(redact("\n".join(f"{name:16} {text}" for name, text in told)))


def gpus() -> Iterator[tuple[str, float]]:
    """List GPUs by nvidia-smi, which needs no torch: name and memory in GB."""
    if shutil.which("nvidia-smi") is None:
        return
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return
    for line in said.splitlines():
        name, _, mib = line.rpartition(",")
        if mib.strip().isdigit():  # "[N/A]" where the memory is the machine's own
            yield name.strip(), int(mib) * 2**20 / 1e9


def torch_cuda() -> str:
    """Read for which CUDA torch was built, without importing it; "" for none."""
    spec = importlib.util.find_spec("torch")
    text = Path(str(spec.origin)).with_name("version.py").read_text(encoding="utf-8") if spec else ""
    found = re.search(r"^cuda.*=\s*'([\d.]+)'", text, re.MULTILINE)
    return found[1] if found else ""


def versions_told() -> Iterator[tuple[str, str]]:
    """Tell the versions of what everything rests on, and whether they are in range."""
    from packaging.requirements import Requirement

    ours = [Requirement(text) for text in metadata.requires("diffusion-self-distillation") or ()]
    wanted = {one.name: one.specifier for one in ours if one.marker is None}
    yield "python", platform.python_version()
    for name in PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, f"missing: pip install '{name}{wanted[name]}'"
        else:
            fits = wanted[name].contains(version, prereleases=True)
            yield name, version if fits else f"{version} is out of range: pip install '{name}{wanted[name]}'"


def stored_token() -> frozenset[str]:
    """Name the token that `hf auth login` has stored, where there is one."""
    from huggingface_hub import constants

    return frozenset({"HF_TOKEN"} if Path(constants.HF_TOKEN_PATH).is_file() else ())


def hub_told(online: bool) -> str:
    """Tell whether the hub answers; it is asked only if that is wanted."""
    from huggingface_hub import constants

    if not online:
        return "not asked (online=true asks)"
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
    except HTTPError as error:
        return f"{constants.ENDPOINT} answers with {error.code}"
    except (URLError, OSError, ValueError) as error:
        return f"{constants.ENDPOINT} cannot be reached ({getattr(error, 'reason', error)})"
    return f"{constants.ENDPOINT} answers"


def experiments_told(machine: Machine) -> Iterator[tuple[str, str]]:
    """Tell which experiments fit, and of the others why not, those of one reason together."""
    found: dict[str, list[str]] = {}
    for file in sorted(Path(CONFIG_DIR).glob("experiment/*/*.yaml")):
        name = file.relative_to(Path(CONFIG_DIR) / "experiment").with_suffix("").as_posix()
        found.setdefault("; ".join(dict.fromkeys(lacking(needs_of(file), file.stem, machine))), []).append(name)
    yield "experiments", f"fit: {', '.join(grouped(found.pop('', []))) or 'none'}"
    for reason, names in sorted(found.items()):
        yield "", f"{', '.join(grouped(names))}: missing {reason}"


def grouped(names: list[str]) -> Iterator[str]:
    """Write experiments by folder: klein/(infer, train)."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, stage = name.rpartition("/")
        folders.setdefault(folder, []).append(stage)
    for folder, stages in folders.items():
        yield f"{folder}/{stages[0]}" if len(stages) == 1 else f"{folder}/({', '.join(stages)})"


def needs_of(file: Path) -> Needs:
    """Read what an experiment states, together with the one that it is made from."""
    own: Any = OmegaConf.to_container(OmegaConf.load(file))
    choices: dict[str, str] = {}
    gpu_gb, quantization = None, "none"
    for default in own.get("defaults", ()):
        if isinstance(default, dict):
            choices |= {key.removeprefix("override /"): str(value) for key, value in default.items()}
        elif default.startswith("/experiment/"):
            below = needs_of(Path(CONFIG_DIR) / f"{default.split('@')[0].lstrip('/')}.yaml")
            gpu_gb, quantization, choices = below.gpu_gb, below.quantization, below.choices | choices
    return Needs(own.get("gpu_gb", gpu_gb), choices, own.get("quantization", quantization))


def lacking(needs: Needs, stage: str, machine: Machine) -> Iterator[str]:
    """List what a machine lacks for an experiment of a stage."""
    if needs.gpu_gb is not None and max((gb for _, gb in machine.gpus), default=0) < needs.gpu_gb:
        yield f"a GPU of {needs.gpu_gb:g} GB"
    keys = SERVICES.get(needs.choices.get("vlm", ""))
    if keys and not machine.keys & set(keys):
        yield " or ".join(keys)
    model = Path(CONFIG_DIR) / "model" / f"{needs.choices.get('model', 'toybox')}.yaml"
    loaded = stage in ("data_gen", "train", "infer")
    license = OmegaConf.select(OmegaConf.load(model), "license")
    if loaded and license not in FREE and "HF_TOKEN" not in machine.keys:
        yield f"HF_TOKEN, to download {model.stem}"
    for chosen, packages in ((needs.quantization, QUANTIZERS), (needs.choices.get("optimizer", ""), OPTIMIZERS)):
        if chosen in packages and packages[chosen] not in machine.packages:
            yield f"pip install {packages[chosen]}"


main = command("doctor", DoctorSettings, "dsd.runs.doctor:run")

if __name__ == "__main__":
    main()
