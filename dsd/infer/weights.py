"""Download weights that the settings name by their repository on the hub, before anything is loaded."""

import logging
from pathlib import Path

from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from omegaconf import DictConfig

from dsd.errors import UserError
from dsd.io.hub import fetched, names_repo
from dsd.models.adapter_file import ADAPTER

log = logging.getLogger(__name__)


def fetch(cfg: DictConfig) -> None:
    """Put folders of downloaded files in place of repositories' names, user/name; paths stay as they are."""
    if cfg.adapter is not None and names_repo(cfg.adapter):
        cfg.adapter = str(holding("adapter", cfg.adapter, ADAPTER, (ADAPTER,)))
    if cfg.transformer is not None and names_repo(cfg.transformer):
        patterns = ("transformer/*.safetensors", "transformer/*.json", LORA_WEIGHT_NAME_SAFE)
        folder = holding("transformer", cfg.transformer, "transformer/config.json", patterns)
        lora = folder / LORA_WEIGHT_NAME_SAFE
        if cfg.lora_weights is None and lora.is_file():
            log.info("transformer=%s: its LoRA (%s) is used, too", cfg.transformer, lora.name)
            cfg.lora_weights = str(lora)
        cfg.transformer = str(folder / "transformer")


def holding(key: str, repo: str, file: str, patterns: tuple[str, ...]) -> Path:
    """Download files of a repository. UserError where `file` is not among them."""
    folder = fetched(key, repo, patterns)
    if not (folder / file).is_file():
        raise UserError(f"{key}={repo}: the repository has no {file}; name one that has it, or give a path")
    return folder
