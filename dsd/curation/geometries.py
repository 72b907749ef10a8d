"""What compares the layouts of panels (geometry=): the names of its scores, known before any of it is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from dsd.errors import UserError
from dsd.geometry import Geometry
from dsd.runs.command import CONFIG_DIR


def chosen(cfg: DictConfig) -> dict[str, Any]:
    """The chosen geometries' settings by name. UserError where the setting is no mapping of them."""
    if cfg.geometry is not None and not isinstance(cfg.geometry, DictConfig):
        raise UserError(f"geometry={cfg.geometry}: choose from configs/geometry/, such as geometry=[flow,edges]")
    return {str(name): settings for name, settings in (cfg.geometry or {}).items() if settings}


def load_geometries(cfg: DictConfig) -> list[Geometry]:
    """Load what is chosen. UserError where a model is missing."""
    return [instantiate(settings) for settings in chosen(cfg).values()]


def score_names(cfg: DictConfig, others: Sequence[str]) -> list[str]:
    """List the names of the chosen geometries' scores. UserError where two have one name, also among `others`."""
    source = dict.fromkeys(others, "another score")
    for geometry, settings in chosen(cfg).items():
        for name in target_class(f"geometry.{geometry}", settings).names:
            if name in source:
                raise UserError(
                    f"geometry.{geometry}: it gives the score {name}, as {source[name]} does; leave one of them out"
                )
            source[name] = f"geometry.{geometry}"
    return [name for name, given_by in source.items() if given_by != "another score"]


def scores_elsewhere() -> dict[str, str]:
    """Name, for every score of the geometries in configs/geometry/, the setting that gives it."""
    found: dict[str, str] = {}
    for file in sorted((Path(CONFIG_DIR) / "geometry").glob("*.yaml")):
        for geometry, settings in cast(dict[str, Any], OmegaConf.load(file)).items():
            names = target_class(f"geometry.{geometry}", settings).names
            found |= dict.fromkeys(names, f"geometry=[{file.stem}]")
    return found


def target_class(key: str, settings: Any) -> Any:
    """Find the class that the setting `key` names, without making an object, which may need weights or a key."""
    target = settings.get("_target_")
    try:
        return get_class(target)
    except (ImportError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{key}._target_={target}: {str(error).strip().splitlines()[0]}") from error
