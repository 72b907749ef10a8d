"""Train a student on pairs: open the pairs, build the student, take the steps, write it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from hydra.utils import instantiate
from omegaconf import DictConfig
from transformers.integrations import unset_hf_deepspeed_config

from dsd.errors import UserError
from dsd.models.adapter import refuse_other_kind
from dsd.models.adapter_file import ADAPTER, read_adapter
from dsd.models.canvas import Canvas
from dsd.models.families import family_of
from dsd.models.flops import matmul_flops
from dsd.models.kinds import make_student
from dsd.models.loading import load_pipeline, to_device
from dsd.models.student import Student
from dsd.runs.identity import fingerprint
from dsd.runs.progress import progress
from dsd.runs.run import Run, begin
from dsd.train.build import build_trainee, share_of
from dsd.train.curves import plot_curves
from dsd.train.data.cache import Cache
from dsd.train.data.encoder import Encoder
from dsd.train.data.pairs import Pairs, open_pairs, prepare_pairs
from dsd.train.data.sampling import Sampling
from dsd.train.data.sources import PairSource
from dsd.train.hooks import Checkpoint, Ema, Log
from dsd.train.launchers import Launcher, refuse_alone
from dsd.train.loop import Hook, Objective, Plan, train
from dsd.train.lost import Watch, one_line_when_lost
from dsd.train.optimizers import refuse_optimizer
from dsd.train.settings import NEEDS_GPU, Cached, Mode, Trainable, adapter_file
from dsd.train.stopping import Stopping
from dsd.train.trainee import Trainee
from dsd.train.validation import Validation

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Train until the last step, or until the process is told to stop."""
    launcher: Launcher = instantiate(cfg.launcher)
    refuse_impossible(cfg, launcher)
    source: PairSource = instantiate(cfg.data)
    current = begin(cfg, inputs_of(cfg, source))
    if current is None:
        return
    with one_line_when_lost(current.output_dir, cfg.timeout_minutes):
        work(cfg, launcher, source, current)


def work(cfg: DictConfig, launcher: Launcher, source: PairSource, current: Run) -> None:
    """Do this process's part."""
    accelerator, validation = start(cfg, launcher), make_validation(cfg)
    encoders = load_encoders(cfg, accelerator)  # they leave before the base comes: the two need never fit together
    student = student_of(cfg, encoders)
    canvases = [student.canvas(*size) for size in sizes_of(cfg)]
    pairs = encode_pairs(cfg, source, encoders, student, current, accelerator)
    if pairs is None:
        return
    if validation is not None:
        validation.prepare(encoders, cfg.num_steps, student.about())
    release_texts(cfg, encoders)
    trainee = build_trainee(
        cfg, launcher, accelerator, student, canvases, pairs.table.most_references, current.config_hash,
        instantiate(cfg.optimizer),
    )  # fmt: skip
    objective = instantiate(cfg.objective)(trainee.over(student), cfg.guidance_scale, cfg.reference_loss_weight)
    announce(cfg, trainee, trainee.resume(), len(pairs.bucket_of), current.config_hash)
    take_steps(cfg, trainee, objective, sampling_of(cfg, pairs, canvases), validation)
    accelerator.end_training()
    if current.is_main and trainee.state.step == cfg.num_steps:
        finish(cfg, current, source, trainee, pairs, validation)


def refuse_impossible(cfg: DictConfig, launcher: Launcher) -> None:
    """Refuse what only this machine, the launcher or a package can tell, before anything is loaded."""
    refuse_alone(launcher)
    if cfg.quantization is Trainable.nf4 and to_device(cfg.device).type == "cpu":
        raise UserError(NEEDS_GPU)
    refuse_optimizer(instantiate(cfg.optimizer), cfg.learning_rate)
    if cfg.init_adapter is not None:
        read_adapter(adapter_file(cfg.init_adapter))


def inputs_of(cfg: DictConfig, source: PairSource) -> dict[str, str]:
    """Name the content of what training reads."""
    begun_from = {} if cfg.init_adapter is None else {"init_adapter": fingerprint(adapter_file(cfg.init_adapter))}
    return {"pairs": source.fingerprint, **begun_from}


def start(cfg: DictConfig, launcher: Launcher) -> Accelerator:
    """Start this process's part of the work, as the launcher divides it."""
    accelerator = Accelerator(
        mixed_precision=cfg.mixed_precision.value,
        log_with=[logger.value for logger in cfg.loggers] or None,
        project_dir=cfg.output_dir,
        **launcher.accelerator(share_of(cfg), to_device(cfg.device).type),
    )
    if not accelerator.is_main_process:  # it speaks for all
        logging.getLogger("dsd").setLevel(logging.WARNING)
    unset_hf_deepspeed_config()  # otherwise transformers loads its models in slices under ZeRO-3
    return accelerator


def load_encoders(cfg: DictConfig, accelerator: Accelerator) -> Any:
    """Load the base's VAE and text encoders."""
    return load_pipeline(cfg.model.path, cfg.model.dtype, str(accelerator.device), transformer=None)


def student_of(cfg: DictConfig, encoders: Any) -> Student:
    """Make the student that the settings ask for, without a transformer yet. UserError where it cannot be."""
    attention = cfg.student.attention.value if cfg.student.attention else None
    student = make_student(
        family_of(encoders), cfg.student.kind.value, cfg.student.positions, attention,
        vae_scale_factor=encoders.vae_scale_factor,
    )  # fmt: skip
    if cfg.init_adapter is not None:
        refuse_other_kind(adapter_file(cfg.init_adapter), student)
    return student


def sizes_of(cfg: DictConfig) -> list[tuple[int, int]]:
    """List the panel sizes, (height, width)."""
    return [(height, width) for height, width in cfg.buckets or [[cfg.model.panel_height, cfg.model.panel_width]]]


def encode_pairs(
    cfg: DictConfig, source: PairSource, encoders: Any, student: Student, current: Run, accelerator: Accelerator
) -> Pairs | None:
    """Bring the pairs from their source to tensors; None after mode=encode, which only fills the cache."""
    sizes, folder, shown = sizes_of(cfg), Path(cfg.cache_dir), accelerator.is_main_process
    encoder = Encoder(encoders, student, cfg.model.max_sequence_length, cfg.fit.value)
    cache = None if cfg.cache is Cached.off else Cache(encoder, folder, sizes, cfg.cache is Cached.all)
    prepare_pairs(source, folder, encoder, sizes, cache, current.worker, current.workers, shown)
    accelerator.wait_for_everyone()
    if cfg.mode is Mode.encode:
        log.info("train: part %d of %d is encoded in %s", cfg.shard, cfg.num_shards, folder)
        return None
    return open_pairs(source, folder, encoder, sizes, cache, shown)


def make_validation(cfg: DictConfig) -> Validation | None:
    """Make what draws and measures while training, where it is asked for."""
    return instantiate(cfg.validation) if cfg.validation and cfg.mode is Mode.train else None


def release_texts(cfg: DictConfig, encoders: Any) -> None:
    """Free the text encoders where all captions are cached; otherwise they work at every step."""
    if cfg.cache is Cached.all:
        for name in family_of(encoders).text_encoders(encoders):
            setattr(encoders, name, None)


def announce(cfg: DictConfig, trainee: Trainee, resumed: bool, num_pairs: int, config_hash: str) -> None:
    """Say what is trained, in one line and to the loggers."""
    trainee.accelerator.init_trackers("dsd", config={"config_hash": config_hash})
    log.info(
        "train: %d pairs, %.2f M trainable parameters, %s", num_pairs, trainee.num_parameters / 1e6,
        f"resuming at step {trainee.state.step}" if resumed else f"{cfg.num_steps} steps of {cfg.batch_size}",
    )  # fmt: skip


def sampling_of(cfg: DictConfig, pairs: Pairs, canvases: Sequence[Canvas]) -> Sampling:
    """Make the stream of samples."""
    return Sampling(
        pairs, canvases, cfg.seed, instantiate(cfg.sigmas), cfg.text_dropout, cfg.condition_dropout,
        cfg.instruction_ratio, cfg.batch_size,
    )  # fmt: skip


def take_steps(
    cfg: DictConfig, trainee: Trainee, objective: Objective, sampling: Sampling, validation: Validation | None
) -> None:
    """Take the steps that are left, with what happens between them; at the last one, write the student."""
    plan = Plan(
        cfg.num_steps, cfg.batch_size, cfg.accumulation, cfg.learning_rate, cfg.warmup_steps, cfg.decay,
        cfg.max_grad_norm,
    )  # fmt: skip
    state, on_main = trainee.state, trainee.accelerator.is_main_process
    with (
        Stopping(trainee.accelerator, state) as stopping,
        progress(plan.num_steps, "train", "step", initial=state.step, shown=on_main) as bar,
    ):
        hooks = hooks_of(cfg, trainee, plan, bar, validation, stopping)
        train(trainee, objective, sampling, plan, hooks, stopping, Watch(trainee.output_dir, cfg.timeout_minutes))
    if state.step < plan.num_steps:
        log.info("train: told to stop; step %d is saved, run the same command to go on", state.step)
    else:
        trainee.write(trainee.output_dir)


def hooks_of(
    cfg: DictConfig, trainee: Trainee, plan: Plan, bar: Any, validation: Validation | None, stopping: Stopping
) -> list[Hook]:
    """List what happens after every step, in this order: a checkpoint records what was measured."""
    device = trainee.accelerator.device
    peak = matmul_flops(device) if device.type == "cuda" else None
    hooks: list[Hook] = [Log(cfg.log_every, plan, bar, trainee.state.step, peak)]
    if cfg.ema_half_life is not None:
        hooks.append(Ema(cfg.ema_half_life, cfg.batch_size))
    if validation is not None:
        hooks.append(validation)
    return [*hooks, Checkpoint(cfg.checkpoint_every, cfg.keep_checkpoints, plan, stopping)]


def finish(
    cfg: DictConfig, current: Run, source: PairSource, trainee: Trainee, pairs: Pairs, validation: Validation | None
) -> None:
    """Draw the curves, write the manifest and say what was done."""
    final: dict[str, Any] = plot_curves(trainee.output_dir)
    state = trainee.state
    best = {"step": state.best_step, validation.metric: state.best} if validation is not None else None
    told: dict[str, Any] = {"source": source.fingerprint, "best": best, **final}
    made = ADAPTER if cfg.lora.rank else "transformer/"
    loss = f"loss {final['loss']:.4f}, " if "loss" in final else ""
    counts = {"pairs": len(pairs.bucket_of), "left_out": len(pairs.table.faults)}
    current.finish(
        {"steps": cfg.num_steps, **counts, "samples": cfg.num_steps * cfg.batch_size},
        f"{cfg.num_steps} steps, {loss}{made}", trainee.output_dir / "loss.png", **told,
    )  # fmt: skip
