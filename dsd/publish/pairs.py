"""Publish curated pairs as a data set, on the hub or in a folder, with a data card.

`load_dataset("user/name")`, or of the folder, has the columns of dsd-curate: image, conditioning, caption and more.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from omegaconf import DictConfig, OmegaConf

from dsd.io.files import atomic
from dsd.runs.identity import CONFIG, read_config
from dsd.runs.manifest import read_manifest
from dsd.runs.redaction import redact_config
from dsd.runs.shards import read_shards

log = logging.getLogger(__name__)

HUB_LICENSES = {  # names that the hub knows; any other stands beside license: other
    "apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "openrail", "openrail++", "creativeml-openrail-m", "cc0-1.0",
    "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odc-by", "cdla-permissive-2.0", "other",
}  # fmt: skip
CARD = """# Pairs of one subject

{pairs} ordered pairs (reference, target) that a text-to-image model drew by in-context prompting and a judge kept,
made with Diffusion Self-Distillation (dsd {version}). `image` is the target, `conditioning` the reference, `caption`
describes the target, `instruction` says what to do with the reference.

Teacher: {teacher}.

| step | began | left | share |
| --- | --- | --- | --- |
{steps}

Rejected, by reason: {reasons}.

## Configuration

```yaml
{config}```
"""


def run(cfg: DictConfig) -> None:
    """Publish the pairs where the config says."""
    folder = Path(cfg.pairs)
    rows = read_shards(folder, "pairs")
    card = data_card(folder, len(rows), cfg.license)
    if cfg.local is not None:
        write_folder(folder, card, Path(cfg.local))
        log.info("publish: %d pairs in %s", len(rows), cfg.local)
    else:
        push(rows, card, cfg.repo, cfg.private)
        log.info("publish: %d pairs at https://huggingface.co/datasets/%s", len(rows), cfg.repo)


def data_card(folder: Path, num_pairs: int, license: str | None) -> DatasetCard:
    """Make the card from the manifest and the config of dsd-curate; secrets are redacted again.

    A license of None is the teacher's, or "other" where the manifest names no teacher.
    """
    manifest = read_manifest(folder, "curation")
    teacher = manifest.get("teacher") or {}
    steps = [
        f"| {s['name']} | {s['begun']} | {s['left']} | {100 * s['share']:.1f} % |" for s in manifest.get("steps", [])
    ]
    config = redact_config(read_config(folder / CONFIG))
    text = CARD.format(
        pairs=num_pairs, teacher=describe(teacher), version=manifest.get("dsd_version", "unknown"),
        steps="\n".join(steps),
        reasons=", ".join(f"{n} {reason}" for reason, n in manifest.get("reasons", {}).items()) or "none",
        config=OmegaConf.to_yaml(OmegaConf.create(config)),
    )  # fmt: skip
    tags = ["subject-driven-generation", "synthetic"]
    named = licence_fields(license or teacher.get("license", "other"))
    data = DatasetCardData(**named, task_categories=["image-to-image"], tags=tags)
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def describe(teacher: Mapping[str, str]) -> str:
    """Name a teacher and its licence."""
    return "{name} (`{path}`), licence {license}".format_map(teacher) if teacher else "not recorded"


def licence_fields(name: str) -> dict[str, Any]:
    """Write a licence as the hub wants it; one that it does not know is "other", with its name."""
    return {"license": name} if name in HUB_LICENSES else {"license": "other", "license_name": name}


def write_folder(pairs: Path, card: DatasetCard, folder: Path) -> None:
    """Copy the shards into a folder that `load_dataset` reads, with the card as its README."""
    with atomic(folder) as temporary:
        (temporary / "data").mkdir(parents=True)
        for file in sorted((pairs / "pairs").glob("*.parquet")):
            shutil.copy(file, temporary / "data" / file.name.replace("pairs-", "train-"))
        card.save(temporary / "README.md")


def push(rows: Dataset, card: DatasetCard, repo: str, private: bool) -> None:
    """Upload rows and card to the hub."""
    HfApi().create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
    card.push_to_hub(repo)
    rows.push_to_hub(repo, private=private)
