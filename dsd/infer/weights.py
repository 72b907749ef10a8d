"""Download weights that the settings name by their repository on the hub, before anything is loaded."""

import logging

from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from omegaconf import DictConfig

from dsd.io.hub import fetched, names_repo
from dsd.models.adapter_file import adapter_at

log = logging.getLogger(__name__)


def fetch(cfg: DictConfig) -> None:
    """Put folders of downloaded files in place of repositories' names, user/name; paths stay as they are."""
    if cfg.adapter is not None and names_repo(cfg.adapter):
        cfg.adapter = adapter_at(cfg.adapter)
    if cfg.transformer is not None and names_repo(cfg.transformer):
        patterns = ("transformer/*.safetensors", "transformer/*.json", LORA_WEIGHT_NAME_SAFE)
        folder = fetched("transformer", cfg.transformer, "transformer/config.json", patterns)
        lora = folder / LORA_WEIGHT_NAME_SAFE
        if cfg.lora_weights is None and lora.is_file():
            log.info("transformer=%s: its LoRA (%s) is used, too", cfg.transformer, lora.name)
            cfg.lora_weights = str(lora)
        cfg.transformer = str(folder / "transformer")
