"""Write the text of `--help` from a stage's schema: what it does, its settings, its groups, and examples."""

import textwrap
from pathlib import Path
from typing import Any

from dsd.runs.manifest import command_name
from dsd.runs.settings import About, described

WIDTH = 100
CLOSING = """Run the same command again to resume. --cfg job prints the whole config and runs nothing.
-m sweeps over comma-separated values and leaves an overview. --hydra-help lists Hydra's own options."""


def help_text(stage: str, schema: Any, config_dir: Path) -> str:
    """Describe a stage in plain words."""
    import yaml

    program, purpose = command_name(stage), (schema.__doc__ or "").strip().splitlines()[0]
    primary = yaml.safe_load((config_dir / f"{stage}.yaml").read_text(encoding="utf-8"))
    every = list(described(schema))
    single = [(key, about) for key, about, _ in every if not about.group and key != "experiment"]
    settings = [_setting_line(key, about, primary) for key, about in single]
    groups = [_group_line(key, about, primary, config_dir) for key, about, _ in every if about.group]
    experiments = sorted(
        f.relative_to(config_dir / "experiment").with_suffix("").as_posix()
        for f in config_dir.glob(f"experiment/**/{stage}.yaml")
    )
    parts = [f"{program}: {purpose[0].lower()}{purpose[1:]}", f"Usage: {program} [setting=value ...]"]
    parts.append("Examples:\n" + "\n".join(f"  {example}" for example in getattr(schema, "examples", ())))
    if experiments:
        parts.append(_wrapped("  experiment=", "published settings: " + ", ".join(experiments)).replace("  ", "", 1))
    parts.append("Settings (the default in brackets):\n" + "\n".join(settings))
    if groups:
        parts.append("Choices (group=choice; a choice has settings of its own, group.key=value):\n" + "\n".join(groups))
    parts.append(getattr(schema, "closing", CLOSING))
    return "\n\n".join(parts)


def _setting_line(key: str, about: About, primary: dict[str, Any]) -> str:
    value: Any = primary
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    shown = "" if value in (None, "???") or isinstance(value, dict) or len(text) > 60 else f" [{text}]"
    return _wrapped(f"  {key}=", about.help + shown)


def _group_line(key: str, about: About, primary: dict[str, Any], config_dir: Path) -> str:
    choices = [f.stem for f in sorted((config_dir / key).glob("*.yaml")) if not f.stem.startswith("_")]
    chosen = next((d[key] for d in primary["defaults"] if isinstance(d, dict) and key in d), None)
    named = ", ".join(f"{choice} (default)" if choice == chosen else choice for choice in choices)
    return _wrapped(f"  {key}=", f"{about.help}: {named}" + ("; null (default)" if chosen is None else ""))


def _wrapped(name: str, text: str) -> str:
    lines = textwrap.wrap(text, WIDTH - 28)
    first = f"{name:27} {lines[0]}" if len(name) <= 27 else f"{name}\n{'':28}{lines[0]}"
    return "\n".join([first, *(f"{'':28}{line}" for line in lines[1:])])
