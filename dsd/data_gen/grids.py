"""Draw the grids of a range of positions."""

import logging
from collections.abc import Callable, Iterator, Sequence

from dsd.data_gen.prompts import NoPrompt
from dsd.data_gen.teachers import Teacher
from dsd.flow import seed_at
from dsd.io.records import Grid, Prompt
from dsd.runs.redaction import redact
from dsd.runs.shards import Failure

log = logging.getLogger(__name__)


class NotAnswered(Exception):
    """Some positions have no prompt for now, for these reasons."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__(reasons[0])
        self.reasons = reasons


def draw(
    positions: range,
    prompts_of: Callable[[range], Sequence[Prompt | NoPrompt]],
    teacher: Teacher,
    seed: int,
    batch_size: int,
    config_hash: str,
    skip_unanswered: bool = False,
) -> Iterator[tuple[int, list[Grid | Failure]]]:
    """Yield the grids at these positions in batches, each with the position after its last.

    NotAnswered, before anything is drawn, where a position has no prompt for now, unless `skip_unanswered`.
    """
    asked = prompts_of(positions)
    silent = [item for item in asked if isinstance(item, NoPrompt) and item.unanswered]
    if silent and not skip_unanswered:
        raise NotAnswered([str(item) for item in silent])
    teacher.prepare([prompt for prompt in asked if isinstance(prompt, Prompt)])
    position = positions.start
    for batch in one_layout(asked, batch_size):
        prompts = [prompt for prompt in batch if isinstance(prompt, Prompt)]
        drawn = iter(attempt(prompts, teacher, [seed_at(seed, prompt.index) for prompt in prompts], config_hash))
        rows = [
            next(drawn) if isinstance(item, Prompt) else Failure({"index": index}, reason_of(item))
            for index, item in enumerate(batch, position)
        ]
        position += len(batch)
        yield position, rows


def reason_of(missing: NoPrompt) -> str:
    """Say why there is no prompt."""
    return f"{'unanswered' if missing.unanswered else 'no prompt'}: {missing}"


def attempt(
    prompts: Sequence[Prompt], teacher: Teacher, seeds: Sequence[int], config_hash: str
) -> list[Grid | Failure]:
    """Draw one batch. If it fails, return one failure a prompt: a bad batch must not stop a long job.

    Out of memory is raised, since the user can choose a smaller batch.
    """
    if not prompts:
        return []
    try:
        images = teacher(prompts, seeds)
    except Exception as error:
        if "out of memory" in str(error).lower():
            raise
        log.warning("grids %d-%d failed: %s", prompts[0].index, prompts[-1].index, error)
        return [Failure({"index": prompt.index, "prompt": prompt.prompt}, redact(repr(error))) for prompt in prompts]
    asked = [{name: value for name, value in vars(prompt).items() if name != "source"} for prompt in prompts]
    return [
        Grid(**fields, image=image, seed=seed, height=image.height, width=image.width, config_hash=config_hash)
        for fields, image, seed in zip(asked, images, seeds, strict=True)
    ]


def one_layout(asked: Sequence[Prompt | NoPrompt], batch_size: int) -> Iterator[list[Prompt | NoPrompt]]:
    """Divide positions into batches of at most `batch_size` whose prompts share a layout."""
    batch: list[Prompt | NoPrompt] = []
    for item in asked:
        layouts = {other.layout for other in (*batch, item) if isinstance(other, Prompt)}
        if len(layouts) > 1 or len(batch) == batch_size:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
