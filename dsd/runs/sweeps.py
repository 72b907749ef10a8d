"""Leave an overview of a --multirun when its last job is done."""

from math import prod
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dsd.runs.redaction import redact_config


class Overview(Callback):
    """Write overview.csv and overview.png into `hydra.sweep.dir` and print the table.

    configs/hydra_settings.yaml names it. Hydra makes it for every command, so it imports what it needs only at the end.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra has written multirun.yaml by now, with every override as it was typed: redact it."""
        redact_file(Path(config.hydra.sweep.dir) / "multirun.yaml")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Compare the jobs that lie in the sweep's folder; those with an output_dir of their own are left out."""
        from dsd.runs.sweep_table import write_overview

        folder = Path(config.hydra.sweep.dir)
        redact_file(folder / "multirun.yaml")
        write_overview(folder, number_of_jobs(list(config.hydra.overrides.task)))


def number_of_jobs(overrides: list[str]) -> int:
    """Count the jobs of a sweep: the product of the numbers of values."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return prod(len(list(o.sweep_string_iterator())) for o in parsed if o.is_sweep_override())


def redact_file(path: Path) -> None:
    """Redact a YAML file in place, where it exists."""
    if not path.is_file():
        return
    import yaml

    from dsd.io.files import atomic

    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    redacted = redact_config(content)
    if redacted != content:
        with atomic(path) as temporary:
            temporary.write_text(yaml.safe_dump(redacted, allow_unicode=True, sort_keys=False), encoding="utf-8")
