"""The student while it learns: fixed references and prompts, drawn every so often, looked at and measured."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from PIL import Image
from torch import Tensor

from dsd.errors import UserError
from dsd.files import atomic
from dsd.pictures import contact_sheet
from dsd.train.checkpoint import TrainState
from dsd.train.hooks import append, forget_after


class Job(Protocol):
    """A reference and a prompt, as `dsd-infer` takes them."""

    prompt: str
    truth: str

    def picture(self) -> Image.Image: ...


class Artist(Protocol):
    """Draws with the transformer as it is now."""

    def prepare(self, pipeline: Any, references: Sequence[Image.Image], prompts: Sequence[str]) -> None:
        """Encode what never changes, while the text encoders are there."""

    def __call__(self, transformer: Any, positions: str) -> list[Image.Image]: ...


class Measure(Protocol):
    """What pictures are worth, by name; more is better."""

    def __call__(self, jobs: Sequence[Job], images: Sequence[Image.Image]) -> dict[str, float]: ...


class Validation:
    """Every `every` steps and at the last: a sheet in samples/, a line in validation.jsonl, and whether it is the best.

    Every process draws, since sharded weights are gathered by all; the main one measures and writes.
    """

    def __init__(
        self, jobs: Sequence[Job], artist: Artist, measures: Mapping[str, Measure | None], metric: str, every: int
    ) -> None:
        self.jobs, self.artist, self.measures = list(jobs), artist, [m for m in measures.values() if m]
        self.metric, self.every = metric, every
        if every < 1:
            raise UserError(f"validation.every={every}: at least 1 is needed")

    def prepare(self, pipeline: Any) -> None:
        self.references = [job.picture() for job in self.jobs]
        self.artist.prepare(pipeline, self.references, [job.prompt for job in self.jobs])

    def hook(
        self, output_dir: Path, accelerator: Accelerator, num_steps: int, state: TrainState,
        transformer: Any, positions: str, save_best: Callable[[], None],
    ) -> Callable[[TrainState, dict[str, Tensor]], None]:  # fmt: skip
        """What the loop calls."""
        file = output_dir / "validation.jsonl"
        if accelerator.is_main_process:
            forget_after(file, state.step)

        def validate(state: TrainState, metrics: dict[str, Tensor]) -> None:
            if state.step % self.every and state.step < num_steps:
                return
            images = self.artist(transformer, positions)
            better = False
            if accelerator.is_main_process:
                found = self.measure(images)
                self.write_sheet(output_dir / "samples" / f"step-{state.step:08d}.png", images)
                append(file, {"step": state.step, **found})
                accelerator.log(found, step=state.step)
                better = state.best is None or found[self.metric] > state.best
                if better:
                    state.best, state.best_step = found[self.metric], state.step
            if agreed(accelerator, better):
                save_best()

        return validate

    def measure(self, images: Sequence[Image.Image]) -> dict[str, float]:
        """All measures; UserError where the chosen metric is not among them."""
        found = {name: value for m in self.measures for name, value in m(self.jobs, images).items()}
        if self.metric not in found:
            raise UserError(f"validation.metric={self.metric}: not measured; choose one of {', '.join(found)}")
        if not math.isfinite(found[self.metric]):
            found[self.metric] = -math.inf
        return found

    def write_sheet(self, path: Path, images: Sequence[Image.Image]) -> None:
        """References beside what was drawn of them."""
        pictures = [picture for both in zip(self.references, images, strict=True) for picture in both]
        words = [text for job in self.jobs for text in ("reference", job.prompt)]
        with atomic(path) as temporary:
            contact_sheet(pictures, words, columns=8, cell=128).save(temporary, "PNG")


def agreed(accelerator: Accelerator, said: bool) -> bool:
    """What the main process says."""
    return bool(broadcast_object_list([said])[0])
