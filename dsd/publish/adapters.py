"""Publish an adapter, on the hub or in a folder, with a model card: pictures, numbers, training settings, licence.

`dsd-infer adapter=user/name` draws with what is published.
"""

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ValidationError

from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.io.hub import REPO
from dsd.io.inputs import first_problem, read_json, read_text
from dsd.models.adapter_file import ADAPTER
from dsd.publish.export import export
from dsd.publish.pairs import licence_fields
from dsd.publish.settings import split_export
from dsd.publish.source import Source
from dsd.runs.identity import CONFIG, fingerprint, read_config
from dsd.runs.manifest import read_manifest
from dsd.runs.redaction import redact, redact_config
from dsd.runs.shards import read_shards

log = logging.getLogger(__name__)
CARD = Path(__file__).with_name("adapter_card.md.jinja")
STOCK = {  # pipelines of diffusers that draw what a student with reference tokens draws, by its kind
    ("flux1", "kontext", "full"): "FluxKontextPipeline",
    ("flux2", "flux2", "full"): "Flux2KleinPipeline",
    ("flux2", "flux2", "cached"): "Flux2KleinKVPipeline",
}


class Scale(BaseModel):
    """What a measure says of itself in summary.json."""

    explained: str


class Summary(BaseModel):
    """The part of dsd-evaluate's summary.json that a card tells."""

    measures: dict[str, Scale]


def run(cfg: DictConfig) -> None:
    """Publish the adapter where the config says."""
    source = Source.read(cfg.adapter, None)
    for to, _ in map(split_export, cfg.exports):
        source.refuse(to)
    refuse_others(cfg)
    if cfg.local is not None:
        with atomic(cfg.local) as folder:
            write_folder(cfg, source, folder)
        log.info("publish: the adapter in %s", cfg.local)
        return
    with tempfile.TemporaryDirectory() as temporary:
        write_folder(cfg, source, Path(temporary) / "adapter")
        HfApi().create_repo(cfg.repo, private=cfg.private, exist_ok=True)
        HfApi().upload_folder(repo_id=cfg.repo, folder_path=Path(temporary) / "adapter")
    log.info("publish: the adapter at https://huggingface.co/%s", cfg.repo)


def refuse_others(cfg: DictConfig) -> None:
    """Raise UserError where pictures or numbers are those of another adapter."""
    if cfg.pictures is not None:
        drawn = read_manifest(cfg.pictures, "infer").get("inputs", {}).get("adapter")
        if drawn != fingerprint(Path(cfg.adapter) / ADAPTER):
            raise UserError(f"pictures={cfg.pictures}: drawn with another adapter than {cfg.adapter}; draw them again")
    if cfg.numbers is not None:
        measured = read_manifest(cfg.numbers, "evaluate").get("inputs", {}).get("adapter")
        if measured and measured.get("config_hash") != read_manifest(cfg.adapter, "train").get("config_hash"):
            raise UserError(f"numbers={cfg.numbers}: they are of another adapter than {cfg.adapter}; evaluate again")


def write_folder(cfg: DictConfig, source: Source, folder: Path) -> None:
    """Write everything that is published into a new folder: card, adapter, exports and example pictures."""
    folder.mkdir()
    shutil.copy(Path(cfg.adapter) / ADAPTER, folder / ADAPTER)
    for to, dtype in map(split_export, cfg.exports):
        export(source, to, dtype, folder / f"{to}-{dtype}")
    pictures = write_pictures(Path(cfg.pictures), folder, cfg.num_pictures) if cfg.pictures else []
    model_card(cfg, source, pictures).save(folder / "README.md")


def write_pictures(results: Path, folder: Path, num: int) -> list[dict[str, str]]:
    """Write evenly spaced results of dsd-infer as PNG; return their prompts and file names."""
    rows = read_shards(results, "results")
    shown, found = min(num, len(rows)), []
    (folder / "pictures").mkdir()
    for number in range(shown):
        row = rows[number * len(rows) // shown]
        names = {kind: f"pictures/{number}-{kind}.png" for kind in ("reference", "drawn")}
        row["reference"].save(folder / names["reference"])
        row["image"].save(folder / names["drawn"])
        found.append({**names, "prompt": redact(" ".join(row["prompt"].split())).replace("|", "\\|")})
    return found


def model_card(cfg: DictConfig, source: Source, pictures: Sequence[Mapping[str, str]]) -> ModelCard:
    """Make the card from what the stages left; secrets are redacted again."""
    manifest, config = read_manifest(cfg.adapter, "train"), redact_config(read_config(Path(cfg.adapter) / CONFIG))
    config.pop("identity", None)
    base, model, student = source.metadata["base"]["path"], config.get("model") or {}, source.metadata["student"]
    license = cfg.license or model.get("license") or "other"
    on_hub = bool(REPO.fullmatch(base))
    data = ModelCardData(
        **licence_fields(license), library_name="diffusers", pipeline_tag="image-to-image",
        tags=["subject-driven-generation", "diffusion-self-distillation", "lora"],
        **({"base_model": base, "base_model_relation": "adapter"} if on_hub else {}),
    )  # fmt: skip
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    text = template.from_string(CARD.read_text(encoding="utf-8")).render(
        name=cfg.repo or Path(cfg.local).name, base=base, model=model.get("name", "toybox"), license=license,
        lora=source.metadata["lora"], student=student, counts=manifest["counts"], pictures=pictures,
        version=manifest.get("dsd_version") or "unknown", judge=judge_of(config), numbers=numbers_of(cfg.numbers),
        stock=STOCK.get((student["family"], student["positions"], student["attention"])),
        exports=[f"{to}-{dtype}" for to, dtype in map(split_export, cfg.exports)],
        config=OmegaConf.to_yaml(OmegaConf.create(config)),
    )  # fmt: skip
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def judge_of(config: Mapping[str, Any]) -> str:
    """Name what judged the pairs of a training, where their folder is still here: its class and its model."""
    path = Path(str(config.get("pairs"))) / CONFIG
    curation = redact_config(read_config(path)) if path.is_file() else {}
    judge, chat = curation.get("judge") or {}, (curation.get("vlm") or {}).get("chat") or {}
    return " with ".join(filter(None, (judge.get("_target_"), chat.get("model"))))


def numbers_of(folder: str | None) -> dict[str, Any] | None:
    """Read the tables of a finished evaluation, one for each measure, and what the measures say of themselves."""
    if folder is None:
        return None
    path = Path(folder) / "summary.json"
    try:
        summary = Summary.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}; run dsd-evaluate again") from error
    tables = read_text(Path(folder) / "table.md").strip().split("\n\n")[: len(summary.measures)]
    return {"tables": tables, "explained": {name: scale.explained for name, scale in summary.measures.items()}}
