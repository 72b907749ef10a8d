"""`dsd-infer`: a reference and a prompt -> picture. One (image=, prompt=), or a whole set of jobs (jobs=...)."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig
from PIL import Image
from tqdm import tqdm

from dsd.errors import UserError
from dsd.files import atomic, resolve
from dsd.flow import seed_at
from dsd.infer.methods import Method, Settings
from dsd.infer.output import overview, save_pictures
from dsd.models.adapter import read_adapter
from dsd.models.canvas import FITS
from dsd.models.loading import to_device
from dsd.models.settings import ModelConfig
from dsd.pictures import picture_format, save_picture
from dsd.pipeline import offload as memory
from dsd.pipeline.jobs import Job, read_picture
from dsd.records import Result, features
from dsd.runs.command import claim, in_multirun, resolved, stage
from dsd.runs.manifest import is_finished, write_manifest
from dsd.runs.shards import Failure, Shard, pending_shards, read_failures, read_shards, write_shard

log = logging.getLogger(__name__)


@dataclass
class InferConfig:
    """configs/infer.yaml."""

    output_dir: str = MISSING
    experiment: str | None = None
    image: str | None = None  # one reference ...
    prompt: str | None = None  # ... and what to draw
    output: str | None = None  # file of the one picture; by default named by its prompt's hash in output_dir
    jobs: Any = None  # -> infer.jobs.JobSource, or nothing for the one picture
    adapter: str | None = None  # folder of dsd-train, or its adapter.safetensors
    transformer: str | None = None  # released layout: folder of the conditional transformer
    lora_weights: str | None = None  # released layout: pytorch_lora_weights.safetensors
    style_loras: list[str] = field(default_factory=list)  # files or hub ids on top, each with :weight if not 1
    seed: int = MISSING
    settings: Settings = MISSING
    batch_size: int = MISSING
    rows_per_shard: int = MISSING
    vlm: Any = None  # -> chat.service.Service, which enhances prompts; none uses them as they are
    enhance: Any = MISSING  # -> infer.enhance.Enhancer
    cache_dir: str = MISSING
    png: bool = True  # every result of a set as a file as well
    shard: int = 0
    num_shards: int = 1
    device: str = "auto"
    model: ModelConfig = MISSING
    method: Any = MISSING  # -> infer.methods.Method
    speed: Any = MISSING  # -> models.speed.Speed
    memory: Any = MISSING  # -> (pipeline, device), infer.memory
    quantization: Any = MISSING  # -> (pipeline, device), models.quantize


Enhance = Callable[[Image.Image, str], str]
IGNORED = ("experiment", "batch_size", "shard", "num_shards", "output", "png", "cache_dir", "memory", "speed.compile")


@stage("infer", InferConfig)
def main(cfg: DictConfig) -> None:
    check(cfg)
    if not cfg.jobs:
        draw_one(cfg)
    else:
        draw_jobs(cfg)


def load_method(cfg: DictConfig) -> Method:
    """The model, on its device and prepared for one picture or many."""
    if "speed" in cfg.method and cfg.speed.compile is None:
        cfg.speed.compile = bool(cfg.jobs) and to_device(cfg.device).type == "cuda"
    return instantiate(cfg.method)


def load_enhancer(cfg: DictConfig) -> Enhance:
    """What turns a reference and the user's prompt into the prompt that is used."""
    if not cfg.vlm:
        return lambda reference, prompt: prompt
    return instantiate(cfg.enhance)(instantiate(cfg.vlm))


def draw_one(cfg: DictConfig) -> None:
    """One picture: a PNG that carries its prompt, seed and settings."""
    if cfg.image is None or cfg.prompt is None:
        raise UserError("nothing to draw: give image=reference.png prompt='...', or jobs=folder|jsonl|toybox")
    if not cfg.prompt.strip():
        raise UserError("prompt is empty; say what to draw")
    reference = read_picture(cfg.image)
    config = resolved(cfg)
    path = Path(
        cfg.output
        or Path(cfg.output_dir) / f"{Path(cfg.image).stem}-{seed_at(cfg.seed, *cfg.prompt.encode()):016x}.png"
    )
    picture_format(path)
    enhance = load_enhancer(cfg)
    prompt = enhance(reference, cfg.prompt)
    (picture,) = load_method(cfg)([reference], [prompt], [cfg.seed])
    settings = config["settings"] | ({"asked": cfg.prompt} if prompt != cfg.prompt else {})
    save_picture(picture, path, prompt, cfg.seed, settings)
    if in_multirun():  # every picture has a folder of its own, and the overview wants to know what is in it
        write_manifest(path.parent, "infer", {"results": 1}, config_hash=claim(path.parent, cfg), look=path.name)
    log.info("infer: %s (%d x %d, seed %d)", path, picture.width, picture.height, cfg.seed)


def draw_jobs(cfg: DictConfig) -> None:
    """All jobs, in shards; a job that fails is recorded with its reason and does not stop the others."""
    output_dir, began = Path(cfg.output_dir), time.monotonic()
    jobs = instantiate(cfg.jobs)
    config_hash = claim(output_dir, cfg, IGNORED)
    if is_finished(output_dir, "infer"):
        log.info("infer: done already, in %s", output_dir)
        return
    state = PartialState()
    worker, workers = cfg.shard * state.num_processes + state.process_index, cfg.num_shards * state.num_processes
    todo = pending_shards(output_dir, "results", len(jobs), cfg.rows_per_shard, worker, workers)
    if todo:
        enhance, method = load_enhancer(cfg), load_method(cfg)
        num = sum(shard.stop - shard.start for shard in todo)
        with tqdm(
            total=num, desc="pictures", unit="picture", mininterval=1, disable=not state.is_local_main_process
        ) as bar:
            for shard in todo:
                rows = results(
                    shard, jobs, enhance, method, cfg.method.name, cfg.seed, cfg.batch_size, config_hash, bar
                )
                write_shard(shard, rows, features(Result))
    state.wait_for_everyone()
    if not state.is_main_process or pending_shards(output_dir, "results", len(jobs), cfg.rows_per_shard):
        log.info("infer: shard %d of %d done, others are still to come", cfg.shard, cfg.num_shards)
        return
    rows, failures = read_shards(output_dir, "results"), read_failures(output_dir, "results")
    if not len(rows):
        raise UserError(f"all {len(failures)} jobs failed, the first because: {failures[0]['reason']}")
    if cfg.png:
        save_pictures(rows, output_dir / "images", resolved(cfg)["settings"])
    with atomic(output_dir / "overview.png") as temporary:
        overview(rows.select(range(min(24, len(rows))))).save(temporary, "PNG")
    counts = {"results": len(rows), "failed": len(failures)}
    seconds = round(time.monotonic() - began, 1)
    write_manifest(output_dir, "infer", counts, config_hash=config_hash, seconds=seconds)
    log.info(
        "infer: %d pictures by %s (%d failed) in %s; look at %s",
        len(rows), cfg.method.name, len(failures), output_dir, output_dir / "overview.png",
    )  # fmt: skip


def results(
    shard: Shard,
    jobs: Sequence[Job],
    enhance: Enhance,
    method: Method,
    name: str,
    seed: int,
    batch_size: int,
    config_hash: str,
    bar: tqdm,
) -> Iterator[Result | Failure]:
    """Yield the results of jobs shard.start..stop-1, in order."""
    for start in range(shard.start, shard.stop, batch_size):
        batch: list[tuple[Job, Image.Image, int]] = []
        for position in range(start, min(start + batch_size, shard.stop)):
            job = jobs[position]
            try:
                picture = job.picture()
                job = replace(job, prompt=enhance(picture, job.prompt))
                batch.append((job, picture, seed_at(seed, position) if job.seed is None else job.seed))
            except UserError as error:
                log.warning("job %s failed: %s", job.name, error)
                yield Failure({"job": job.name, "prompt": job.prompt}, str(error))
        if batch:
            pictures = method([p for _, p, _ in batch], [j.prompt for j, _, _ in batch], [s for _, _, s in batch])
            for (job, reference, job_seed), picture in zip(batch, pictures, strict=True):
                shown = reference.convert("RGB")
                yield Result(job.name, picture, shown, job.prompt, job_seed, name, job.truth, config_hash)
        bar.update(min(start + batch_size, shard.stop) - start)


def check(cfg: DictConfig) -> None:
    """Refuse values that cannot work before anything is loaded."""
    for name in ("guidance_scale", "image_guidance_scale", "text_guidance_scale"):
        if not math.isfinite(cfg.settings[name]):
            raise UserError(f"settings.{name}={cfg.settings[name]}: a finite number is needed")
    for name in ("batch_size", "rows_per_shard"):
        if cfg[name] < 1:
            raise UserError(f"{name}={cfg[name]}: at least 1 is needed")
    for name in ("height", "width"):
        if cfg.settings[name] < 16 or cfg.settings[name] % 16:
            raise UserError(f"settings.{name}={cfg.settings[name]}: a positive multiple of 16 is needed")
    if cfg.settings.num_inference_steps < 1:
        raise UserError(f"settings.num_inference_steps={cfg.settings.num_inference_steps}: at least 1 is needed")
    if cfg.settings.fit not in FITS:
        raise UserError(f"settings.fit={cfg.settings.fit}: choose one of {', '.join(FITS)}")
    if not 0 <= cfg.seed < 2**63:
        raise UserError(f"seed={cfg.seed}: a number from 0 to 2^63 - 1 is needed")
    if "speed" not in cfg.method:  # a baseline takes no adapter and no preparation
        return
    quantization = cfg.quantization._target_.rsplit(".", 1)[-1]
    memory.check(cfg.memory._target_.rsplit(".", 1)[-1], quantization, to_device(cfg.device))
    if quantization != "none" and not cfg.speed.fuse:
        raise UserError(f"quantization={quantization} needs fused LoRA; leave speed.fuse=true")
    if cfg.adapter is not None:
        read_adapter(resolve(cfg.adapter))


if __name__ == "__main__":
    main()
