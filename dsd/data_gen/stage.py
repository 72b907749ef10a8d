"""Prompts -> grids. Writes `grids/`, a contact sheet (overview.png) and a manifest into output_dir."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dsd.data_gen.grids import NotAnswered, draw
from dsd.data_gen.near_duplicates import evaluation_subjects, write_overlap
from dsd.data_gen.prompts_ahead import PromptsAhead
from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.io.pictures import contact_sheet
from dsd.io.records import Grid, features
from dsd.runs.run import Run, begin
from dsd.runs.shards import (
    Shard,
    first_missing,
    pending_shards,
    read_failures,
    read_shards,
    read_stats,
    write_shard_in_parts,
)

PNG_BYTES_A_PIXEL = 1.5  # of generated pictures; photographs are about as large
SHOWN = 12  # grids on the contact sheet


def run(cfg: DictConfig) -> None:
    """Draw the grids that are not there yet."""
    prompt_at = instantiate(cfg.prompts)  # bad prompts are reported before the output folder is claimed
    known = evaluation_subjects(cfg.evaluation_captions) if cfg.evaluation_captions is not None else None
    content = getattr(prompt_at, "content", None)  # of files that prompts were read from
    stage = begin(cfg, {"prompts": content} if content is not None else None)
    if stage is None:
        return

    def make_writer() -> Callable[[Shard, Any], None]:
        todo = pending_shards(stage.output_dir, "grids", cfg.num_grids, rows_per_shard, stage.worker, stage.workers)
        ahead = PromptsAhead(prompt_at, [range(first_missing(shard), shard.stop) for shard in todo])
        drawing = partial(
            draw, prompts_of=ahead, teacher=instantiate(cfg.teacher), seed=cfg.seed, batch_size=cfg.batch_size,
            config_hash=stage.config_hash, skip_unanswered=cfg.skip_unanswered,
        )  # fmt: skip
        return Drawing(drawing, ahead, todo[-1]).write

    rows_per_shard = cfg.rows_per_shard or grids_in(cfg.shard_mb, cfg.model)
    if stage.make_shards("grids", cfg.num_grids, rows_per_shard, "grid", make_writer):
        finish(stage, known, teacher_of(cfg))


def teacher_of(cfg: DictConfig) -> dict[str, str]:
    """Name what draws the grids and its licence; the path is a pipeline's, or the code of another teacher."""
    path = OmegaConf.select(cfg, "teacher.path") or cfg.teacher._target_
    return {"name": cfg.model.name, "path": path, "license": cfg.model.license}


def grids_in(shard_mb: int, model: Any) -> int:
    """Estimate how many 2x2 grids make that many MB."""
    size = 4 * model.panel_height * model.panel_width * PNG_BYTES_A_PIXEL
    num: int = max(1, round(shard_mb * 1e6 / size))
    return num


@dataclass
class Drawing:
    """Writes shards of grids. A shard with an unanswered prompt is left for the next run."""

    draw: Callable[[range], Any]
    prompts: PromptsAhead
    last: Shard  # of this run
    unanswered: list[str] = field(default_factory=list)  # reasons, of all shards

    def write(self, shard: Shard, bar: Any) -> None:
        """Write one shard in parts; finished parts survive a kill. UserError after the last one if any was left."""

        def parts_from(start: int) -> Any:
            bar.update(start - shard.start)
            for stop, rows in self.draw(range(start, shard.stop)):
                yield stop, rows
                bar.update(len(rows))

        try:
            write_shard_in_parts(shard, parts_from, features(Grid))
        except NotAnswered as error:
            self.unanswered += error.reasons
        except BaseException:
            self.prompts.close()  # otherwise Python would ask for the next shard's prompts before it ends
            raise
        if shard == self.last and self.unanswered:
            raise UserError(
                f"{len(self.unanswered)} prompts have no answer, the first because: {self.unanswered[0]}; what was "
                "answered is kept, run the same command again to ask for them, or finish without them by "
                "skip_unanswered=true"
            )


def finish(stage: Run, known: Sequence[str] | None, teacher: Mapping[str, str]) -> None:
    """Write what people look at, and the manifest. `known` are the subjects of an evaluation set."""
    folder = stage.output_dir
    grids, failures = read_shards(folder, "grids"), read_failures(folder, "grids")
    if not len(grids):
        reason = failures[0]["reason"] if failures else "there are none"
        raise UserError(f"{folder}: no grid was drawn, the first because: {reason}; mend it and delete the folder")
    counts = {"grids": len(grids), "failed": len(failures)}
    if known is not None:
        counts["overlapping"] = write_overlap(folder / "overlap.csv", grids["subject"], known)
    look = folder / "overview.png"
    with atomic(look) as temporary:
        sheet_of(grids).save(temporary, "PNG")
    shutil.rmtree(folder / "parts", ignore_errors=True)  # killed runs leave them
    said = f"{len(grids)} grids ({len(failures)} failed)"
    seconds = round(read_stats(folder, "grids")["seconds"], 1)
    stage.finish(counts, said, look, seconds=seconds, teacher=dict(teacher))


def sheet_of(grids: Dataset) -> Any:
    """Make a contact sheet of the first grids with their prompts."""
    shown = grids.select(range(min(SHOWN, len(grids))))
    return contact_sheet(shown["image"], [row["prompt"] for row in shown], columns=4)
