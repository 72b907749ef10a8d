"""Draw one picture, or a set of jobs in shards."""

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from dsd.errors import UserError
from dsd.infer.draw import Drawer, Enhance
from dsd.infer.enhance import Enhancer
from dsd.infer.methods import Method, Parts, refuse_step_cache, weighted
from dsd.infer.methods import Student as DrawnByStudent
from dsd.infer.output import overview, save_pictures
from dsd.infer.settings import images_of, prompt_of
from dsd.infer.weights import fetch
from dsd.io.files import refuse_unwritable, resolve
from dsd.io.pictures import picture_format, read_picture, save_picture
from dsd.io.records import NOT_ATTEMPTED, Result, features, reason_class
from dsd.models.adapter import style_tensors
from dsd.models.adapter_file import read_adapter
from dsd.models.kinds import student_from
from dsd.models.loading import to_device
from dsd.models.quantize import quantize
from dsd.models.student import Student, refuse_too_many
from dsd.pipeline import offload
from dsd.pipeline.jobs import JobSource
from dsd.runs.command import in_multirun
from dsd.runs.identity import claim, fingerprint
from dsd.runs.manifest import write_manifest
from dsd.runs.run import Writer, begin
from dsd.runs.settings import plain
from dsd.runs.shards import read_failures, read_shards, write_shard_in_parts
from dsd.runs.stopwatch import Stopwatch

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Draw what the config asks for."""
    if cfg.method.takes_adapter:
        fetch(cfg)
    refuse_impossible(cfg)
    watch = Stopwatch(cfg.verbose)
    with watch.part("other"):
        draw_jobs(cfg, watch) if cfg.jobs else draw_one(cfg, watch)
    if watch.on:
        log.info("infer: %s", watch.said())


def draw_one(cfg: DictConfig, watch: Stopwatch) -> None:
    """Draw one picture, a PNG that carries its prompt, seed and settings; print its path."""
    references = [read_picture(image) for image in images_of(cfg.image)]
    path = Path(cfg.output or Path(cfg.output_dir) / picture_name(cfg))
    picture_format(path)
    if path.is_dir():
        raise UserError(f"output={path} is a folder; end the name with .png")
    refuse_unwritable(path)
    asked_for = prompt_of(cfg)
    prompt = make_enhancer(cfg)(references[0], asked_for)
    (picture,) = make_method(cfg, False, watch)([references], [prompt], [cfg.seed])
    asked = {"asked": asked_for} if prompt != asked_for else {}
    with watch.part("write"):
        save_picture(picture, path, prompt, cfg.seed, plain(cfg)["settings"] | asked)
    if in_multirun():  # every job has a folder of its own, which the overview reads
        digest = claim(path.parent, cfg, inputs_of(cfg))
        write_manifest(path.parent, "infer", {"results": 1}, config_hash=digest, look=path.name)
    log.info("infer: %s (%d x %d, seed %d)", path, picture.width, picture.height, cfg.seed)
    print(path)


def draw_jobs(cfg: DictConfig, watch: Stopwatch) -> None:
    """Draw all jobs, in shards; a job that fails is recorded with its reason and does not stop the others."""
    jobs: JobSource = instantiate(cfg.jobs)
    current = begin(cfg, {**inputs_of(cfg), "jobs": jobs.fingerprint})
    if current is None:
        return

    def make_writer() -> Writer:
        drawer = Drawer(
            jobs, make_enhancer(cfg), make_method(cfg, True, watch), cfg.method.name, cfg.seed, cfg.batch_size,
            current.config_hash,
        )  # fmt: skip
        return lambda shard, bar: write_shard_in_parts(shard, partial(drawer.parts, shard, bar), features(Result))

    if not current.make_shards("results", len(jobs), cfg.rows_per_shard, "picture", make_writer):
        return
    rows, failures = read_shards(current.output_dir, "results"), read_failures(current.output_dir, "results")
    if not len(rows):
        raise UserError(f"all {len(failures)} jobs failed, the first because: {failures[0]['reason']}")
    with watch.part("write"):
        if cfg.png:
            save_pictures(rows, current.output_dir / "images", plain(cfg)["settings"])
        look = overview(rows, current.output_dir / "overview.png")
    left = sum(reason_class(failure["reason"]) == NOT_ATTEMPTED for failure in failures)
    counts = {"results": len(rows), "failed": len(failures) - left} | ({"not_attempted": left} if left else {})
    said = f"{counts['failed']} failed" + (f", {left} not attempted" if left else "")
    current.finish(counts, f"{len(rows)} pictures by {cfg.method.name} ({said})", look)


def make_method(cfg: DictConfig, many: bool, watch: Stopwatch) -> Method:
    """Load what draws, on its device, prepared for one picture or for many."""
    with watch.part("load"):
        method: Method = instantiate(cfg.method)(parts_of(cfg, many))
    if isinstance(method, DrawnByStudent):
        watch.watch(
            method.pipeline, encode_text="text", encode_negative="text", prepare="reference", denoise="denoise",
            decode="decode",
        )  # fmt: skip
    return method


def parts_of(cfg: DictConfig, many: bool) -> Parts:
    """Say what a method is made of; its weights are loaded by the method."""
    speed, device = instantiate(cfg.speed), to_device(cfg.device)

    def prepare(pipeline: Any) -> None:
        quantize(pipeline, device, cfg.quantization.value, cfg.quantized_parts, cfg.gguf_kind)
        speed(pipeline, device, many)
        offload.place(pipeline, device, cfg.offload.value)

    return Parts(
        cfg.model.path, cfg.model.distilled, cfg.model.dtype, device, plain(cfg)["settings"], cfg.adapter,
        cfg.transformer, cfg.lora_weights, list(cfg.style_loras), speed, prepare, cfg.batch_size if many else 1,
    )  # fmt: skip


def make_enhancer(cfg: DictConfig) -> Enhance:
    """Make what turns a reference and the user's prompt into the prompt that is drawn."""
    if not cfg.vlm:
        return lambda reference, prompt: prompt
    return Enhancer(instantiate(cfg.vlm), cfg.enhance.describe, cfg.enhance.enrich)


def refuse_impossible(cfg: DictConfig) -> None:
    """Refuse what only this machine or the adapter itself can tell, before a model is loaded."""
    device = to_device(cfg.device)
    if cfg.method.takes_adapter:
        offload.refuse_without_gpu(cfg.offload.value, cfg.quantization.value, device)
        if cfg.adapter is not None:
            refuse_misused(cfg, student_from(read_adapter(resolve(cfg.adapter))[1]["student"]))
        for path, _ in map(weighted, cfg.style_loras):
            style_tensors(path)


def refuse_misused(cfg: DictConfig, student: Student) -> None:
    """Refuse what the kind of student that an adapter holds cannot do."""
    if not cfg.jobs:
        refuse_too_many(len(images_of(cfg.image)), student)
    if cfg.speed.get("step_cache") is not None:
        refuse_step_cache(student)


def inputs_of(cfg: DictConfig) -> dict[str, str]:
    """Name the content of the weights that a method is given."""
    if not cfg.method.takes_adapter:
        return {}
    given = {name: resolve(cfg[name]) for name in ("adapter", "transformer", "lora_weights") if cfg[name]}
    return {name: fingerprint(adapter_file(path)) for name, path in given.items()}


def adapter_file(path: str) -> Path:
    """Find the adapter in a folder of dsd-train; keep other paths."""
    inside = Path(path) / "adapter.safetensors"
    return inside if inside.is_file() else Path(path)


def picture_name(cfg: DictConfig) -> str:
    """Name a picture by its reference's file name and by everything that was asked, of what draws too."""
    images = images_of(cfg.image)
    how = plain(cfg)
    asked = f"{' '.join(map(fingerprint, images))} {prompt_of(cfg)} {cfg.seed} {how['settings']} {how['method']}"
    return f"{Path(images[0]).stem}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.png"
