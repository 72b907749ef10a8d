"""Watch the student learn: fixed references and prompts are drawn every so often, looked at and measured."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from accelerate.utils import broadcast_object_list
from PIL import Image

from dsd.errors import UserError
from dsd.io.files import atomic
from dsd.io.pictures import contact_sheet
from dsd.metrics.judges.measure import VLMMeasure
from dsd.metrics.measure import Drawing, Measure, mean_scores, refuse_unsuited
from dsd.pipeline.jobs import Job
from dsd.train.journal import VALIDATION, append
from dsd.train.loop import Metrics
from dsd.train.trainee import Trainee

log = logging.getLogger(__name__)


class Artist(Protocol):
    """Draws with the transformer as it is now."""

    def prepare(self, pipeline: Any, references: Sequence[Image.Image], prompts: Sequence[str]) -> None:
        """Encode what never changes, while the text encoders are there."""

    def __call__(self, transformer: Any, about: Mapping[str, Any]) -> list[Image.Image]:
        """Draw every reference; `about` describes the student, see `Student.about`."""
        ...


class Validation:
    """Every `every` steps and at the last: a sheet in samples/, a line in validation.jsonl, the best student in best/.

    Every process draws, because divided weights are gathered by all. The main one measures and writes.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        artist: Artist,
        measures: Mapping[str, Measure],
        metric: str,
        every: int,
        measure_every: Mapping[str, int] | None = None,
    ) -> None:
        """`measure_every` is for measures that are paid for: {"vlm": 5} is every fifth validation, and the last."""
        self.turns, self.stopped = dict(measure_every or {}), set[str]()
        self.jobs = [jobs[number] for number in range(len(jobs))]
        self.artist, self.measures, self.metric, self.every = artist, measures, metric, every
        if any(job.others for job in self.jobs):
            raise UserError("validation.jobs: a job has several references; validation draws with one")
        if every < 1:
            raise UserError(f"validation.every={every}: at least 1 is needed")
        for name, turns in self.turns.items():
            if name not in measures or turns < 1:
                given = f"validation.measure_every.{name}={turns}"
                raise UserError(f"{given}: a measure ({', '.join(measures)}) and at least 1 are needed")
            if turns > 1 and metric in measures[name].scale.names:
                raise UserError(
                    f"validation.metric={metric}: measured at every {turns}th validation alone; choose another"
                )
        known = [name for measure in measures.values() for name in measure.scale.names]
        if metric not in known:
            raise UserError(f"validation.metric={metric}: not measured; choose one of {', '.join(known)}")
        for name, measure in measures.items():
            for job in self.jobs:
                refuse_unsuited(name, measure, f"validation.jobs: {job.name}", job.prompt, job.truth)

    def prepare(self, pipeline: Any, num_steps: int, about: Mapping[str, Any]) -> None:
        """Read the references and encode all that the artist needs of the pipeline."""
        self.num_steps, self.about = num_steps, about
        self.references = [job.picture() for job in self.jobs]
        self.artist.prepare(pipeline, self.references, [job.prompt for job in self.jobs])

    def __call__(self, trainee: Trainee, metrics: Metrics) -> None:
        """Validate, where it is the step's turn."""
        state, accelerator = trainee.state, trainee.accelerator
        if state.step % self.every and state.step < self.num_steps:
            return
        trainee.losses.refuse_nan()
        images = self.artist(trainee.transformer, self.about)
        better = False
        if accelerator.is_main_process:
            found = self.measure(images, state.step)
            self.write_sheet(trainee.output_dir / "samples" / f"step-{state.step:08d}.png", images)
            append(trainee.output_dir / VALIDATION, {"step": state.step, **found})
            accelerator.log(found, step=state.step)
            better = state.best is None or found[self.metric] > state.best
            if better:
                state.best, state.best_step = found[self.metric], state.step
        if broadcast_object_list([better])[0]:
            trainee.write(trainee.output_dir / "best")

    def measure(self, images: Sequence[Image.Image], step: int) -> dict[str, float]:
        """Average what the measures whose turn it is say. A metric that is no number counts as the worst."""
        drawings = [
            Drawing(image, reference, job.prompt, job.truth, category=job.category, kind=job.kind)
            for image, reference, job in zip(images, self.references, self.jobs, strict=True)
        ]
        found: dict[str, float] = {}
        for name, measure in self.measures.items():
            if step >= self.num_steps or (step // self.every) % self.turns.get(name, 1) == 0:
                found |= self.means(name, measure, drawings)
        if not math.isfinite(found.get(self.metric, math.nan)):
            found[self.metric] = -math.inf
        return found

    def means(self, name: str, measure: Measure, drawings: Sequence[Drawing]) -> dict[str, float]:
        """Average one measure. A judge who is down, or whose budget is used up, stops; the training goes on."""
        if not isinstance(measure, VLMMeasure):
            return mean_scores(measure.scale, measure(drawings))
        if name in self.stopped:
            return {}
        try:
            rows = measure(drawings)
        except UserError as error:
            self.stopped.add(name)
            log.warning("validation: %s measures no more in this run: %s", name, error)
            return {}
        missing = {
            f"{key}_missing": sum(key in row.missing for row in rows) / len(rows) for key in measure.names.values()
        }
        means = {key: mean for key, mean in mean_scores(measure.scale, rows).items() if math.isfinite(mean)}
        return means | {key: share for key, share in missing.items() if share}

    def write_sheet(self, path: Path, images: Sequence[Image.Image]) -> None:
        """Write a sheet of the references, each beside what was drawn of it."""
        pictures = [picture for both in zip(self.references, images, strict=True) for picture in both]
        words = [text for job in self.jobs for text in ("reference", job.prompt)]
        with atomic(path) as temporary:
            contact_sheet(pictures, words, columns=8, cell=128).save(temporary, "PNG")
