"""Prompts -> grids. Writes `grids/`, a contact sheet (overview.png) and a manifest into output_dir."""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import DictConfig

from dsd.data_gen.grids import draw
from dsd.data_gen.near_duplicates import evaluation_subjects, write_overlap
from dsd.io.files import atomic
from dsd.io.pictures import contact_sheet
from dsd.io.records import Grid, features
from dsd.runs.run import Run, begin
from dsd.runs.shards import Shard, read_failures, read_shards, read_stats, write_shard_in_parts

PNG_BYTES_A_PIXEL = 1.5  # of generated pictures; photographs are about as large
SHOWN = 12  # grids on the contact sheet


def run(cfg: DictConfig) -> None:
    """Draw the grids that are not there yet."""
    prompt_at = instantiate(cfg.prompts)  # bad prompts are reported before the output folder is claimed
    known = evaluation_subjects(cfg.evaluation_captions) if cfg.evaluation_captions is not None else None
    stage = begin(cfg)
    if stage is None:
        return

    def make_writer() -> Callable[[Shard, Any], None]:
        drawing = partial(
            draw, prompt_at=prompt_at, teacher=instantiate(cfg.teacher), seed=cfg.seed, batch_size=cfg.batch_size,
            config_hash=stage.config_hash,
        )  # fmt: skip
        return partial(write_grids, drawing)

    rows_per_shard = cfg.rows_per_shard or grids_in(cfg.shard_mb, cfg.model)
    if stage.make_shards("grids", cfg.num_grids, rows_per_shard, "grid", make_writer):
        finish(stage, known)


def grids_in(shard_mb: int, model: Any) -> int:
    """Estimate how many 2x2 grids make that many MB."""
    size = 4 * model.panel_height * model.panel_width * PNG_BYTES_A_PIXEL
    num: int = max(1, round(shard_mb * 1e6 / size))
    return num


def write_grids(drawing: Callable[[range], Any], shard: Shard, bar: Any) -> None:
    """Write one shard in parts; finished parts survive a kill."""

    def parts_from(start: int) -> Any:
        bar.update(start - shard.start)
        for stop, rows in drawing(range(start, shard.stop)):
            yield stop, rows
            bar.update(len(rows))

    write_shard_in_parts(shard, parts_from, features(Grid))


def finish(stage: Run, known: Sequence[str] | None) -> None:
    """Write what people look at, and the manifest. `known` are the subjects of an evaluation set."""
    folder = stage.output_dir
    grids, failures = read_shards(folder, "grids"), read_failures(folder, "grids")
    counts = {"grids": len(grids), "failed": len(failures)}
    if known is not None:
        counts["overlapping"] = write_overlap(folder / "overlap.csv", grids["subject"], known)
    look = folder / "overview.png" if len(grids) else None
    if look is not None:
        with atomic(look) as temporary:
            sheet_of(grids).save(temporary, "PNG")
    shutil.rmtree(folder / "parts", ignore_errors=True)  # killed runs leave them
    said = f"{len(grids)} grids ({len(failures)} failed)"
    stage.finish(counts, said, look, seconds=round(read_stats(folder, "grids")["seconds"], 1))


def sheet_of(grids: Dataset) -> Any:
    """Make a contact sheet of the first grids with their prompts."""
    shown = grids.select(range(min(SHOWN, len(grids))))
    return contact_sheet(shown["image"], [row["prompt"] for row in shown], columns=4)
