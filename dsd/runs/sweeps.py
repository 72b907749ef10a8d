"""Leave an overview of a --multirun when its last job is done."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Overview(Callback):
    """Write overview.csv and overview.png into `hydra.sweep.dir` and print the table.

    configs/hydra_settings.yaml names it. Hydra makes it for every command, so it imports what it needs only at the end.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Compare the jobs that lie in the sweep's folder; those with an output_dir of their own are left out."""
        from dsd.runs.sweep_table import write_overview

        write_overview(Path(config.hydra.sweep.dir))
