"""`dsd-data-gen`: prompts -> grids. Reads nothing; writes `grids/`, an overview and a manifest into output_dir."""

import csv
import functools
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig
from tqdm import tqdm

from dsd.data_gen.grids import draw
from dsd.data_gen.near_duplicates import evaluation_subjects, overlap
from dsd.errors import UserError
from dsd.files import atomic
from dsd.models.settings import ModelConfig
from dsd.pictures import contact_sheet
from dsd.records import Grid, features
from dsd.runs.command import claim, stage
from dsd.runs.manifest import is_finished, write_manifest
from dsd.runs.shards import Shard, pending_shards, read_failures, read_shards, read_stats, write_shard_in_parts

log = logging.getLogger(__name__)
PNG_BYTES_A_PIXEL = 1.5  # of what a model draws; photographs are about as large


@dataclass
class DataGenConfig:
    """configs/data_gen.yaml."""

    output_dir: str = MISSING
    experiment: str | None = None
    seed: int = MISSING
    num_grids: int = MISSING
    rows_per_shard: int | None = MISSING  # the unit of dividing work; None: as many as make shard_mb
    shard_mb: int = MISSING  # about the size of a shard, reckoned from the size of a 2x2 grid
    batch_size: int = MISSING
    shard: int = 0  # which part of the work this process does, of num_shards; Slurm's array index by default
    num_shards: int = 1
    device: str = "auto"
    model: ModelConfig = MISSING
    speed: Any = MISSING  # -> models.speed.Speed
    quantization: Any = MISSING  # -> (pipeline, device), models.quantize
    prompts: Any = MISSING  # -> data_gen.prompts.PromptSource
    teacher: Any = MISSING  # -> data_gen.teachers.Teacher
    vlm: Any = None  # -> chat.service.Service, for the prompts that one writes
    cache_dir: str = MISSING
    evaluation_captions: str | None = (
        None  # DreamBench++'s data/captions: overlap.csv says which prompts name its subjects
    )


IGNORED = (  # change when and where, not what
    "experiment", "batch_size", "shard", "num_shards", "cache_dir", "evaluation_captions", "vlm.cache", "vlm.limits",
    "prompts.service.cache", "prompts.service.limits", "speed.compile", "teacher.speed.compile",
)  # fmt: skip


@stage("data_gen", DataGenConfig)
def main(cfg: DictConfig) -> None:
    if not 0 <= cfg.shard < cfg.num_shards:
        raise UserError(f"shard={cfg.shard} is outside 0..{cfg.num_shards - 1} (num_shards={cfg.num_shards})")
    for name in ("num_grids", "rows_per_shard", "shard_mb", "batch_size"):
        if cfg[name] is not None and cfg[name] < 1:
            raise UserError(f"{name}={cfg[name]}: at least 1 is needed")
    known = evaluation_subjects(cfg.evaluation_captions) if cfg.evaluation_captions is not None else []
    output_dir, rows_per_shard = Path(cfg.output_dir), cfg.rows_per_shard or rows_of(cfg.shard_mb, cfg.model)
    prompt_at = instantiate(cfg.prompts)  # what is wrong with them is said before the folder is theirs
    config_hash = claim(output_dir, cfg, IGNORED)
    if is_finished(output_dir, "data_gen"):
        log.info("data_gen: done already, in %s", output_dir)
        return

    state = PartialState()
    worker = cfg.shard * state.num_processes + state.process_index
    workers = cfg.num_shards * state.num_processes
    todo = pending_shards(output_dir, "grids", cfg.num_grids, rows_per_shard, worker, workers)
    if todo:
        teacher = instantiate(cfg.teacher)
        num = sum(shard.stop - shard.start for shard in todo)
        with tqdm(total=num, desc="grids", unit="grid", mininterval=1, disable=not state.is_local_main_process) as bar:
            drawing = functools.partial(
                draw, prompt_at=prompt_at, teacher=teacher, seed=cfg.seed, batch_size=cfg.batch_size,
                config_hash=config_hash,
            )  # fmt: skip
            for shard in todo:
                write_shard_in_parts(shard, functools.partial(parts, shard, drawing, bar), features(Grid))
    state.wait_for_everyone()
    if not state.is_main_process or pending_shards(output_dir, "grids", cfg.num_grids, rows_per_shard):
        log.info("data_gen: shard %d of %d done, others are still to come", cfg.shard, cfg.num_shards)
        return

    grids, failures = read_shards(output_dir, "grids"), read_failures(output_dir, "grids")
    if len(grids):
        shown = grids.select(range(min(12, len(grids))))
        with atomic(output_dir / "overview.png") as temporary:
            contact_sheet(shown["image"], [row["prompt"] for row in shown], columns=4).save(temporary, "PNG")
    counts = {"grids": len(grids), "failed": len(failures)}
    if cfg.evaluation_captions is not None:
        found = overlap(grids["subject"], known)
        with atomic(output_dir / "overlap.csv") as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([("grid", "subject", "evaluation subject"), *found])
        counts["overlapping"] = len({row[0] for row in found})
    shutil.rmtree(output_dir / "parts", ignore_errors=True)  # what killed runs left
    seconds = round(read_stats(output_dir, "grids")["seconds"], 1)
    write_manifest(output_dir, "data_gen", counts, config_hash=config_hash, seconds=seconds)
    log.info(
        "data_gen: %d grids (%d failed) in %s; look at %s",
        len(grids), len(failures), output_dir, output_dir / "overview.png",
    )  # fmt: skip


def parts(
    shard: Shard, drawing: Callable[[range], Iterator[tuple[int, list[Any]]]], bar: tqdm, start: int
) -> Iterator[tuple[int, list[Any]]]:
    """The batches from `start` on."""
    bar.update(start - shard.start)
    for stop, rows in drawing(range(start, shard.stop)):
        yield stop, rows
        bar.update(len(rows))


def rows_of(shard_mb: int, model: Any) -> int:
    """How many 2x2 grids make about that many MB."""
    size = 4 * model.panel_height * model.panel_width * PNG_BYTES_A_PIXEL
    return max(1, round(shard_mb * 1e6 / size))


if __name__ == "__main__":
    main()
