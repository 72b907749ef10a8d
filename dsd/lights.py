"""Lights, times, weathers, seasons, materials and styles as people ask for them: the list of lights.yaml."""

from functools import cache
from importlib.resources import files

import yaml

from dsd.errors import UserError
from dsd.runs.messages import did_you_mean


@cache
def lights() -> dict[str, dict[str, str]]:
    """Read the list: kind -> name of a preset -> phrase."""
    found: dict[str, dict[str, str]] = yaml.safe_load((files("dsd") / "lights.yaml").read_text(encoding="utf-8"))
    return found


def preset(name: str) -> str:
    """Give the phrase of a preset. UserError names those that are like an unknown one."""
    known = {name: phrase for phrases in lights().values() for name, phrase in phrases.items()}
    if name not in known:
        raise UserError(f"preset={name}: no such preset{did_you_mean(name, list(known))}; presets: {', '.join(known)}")
    return known[name]
