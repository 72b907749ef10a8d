"""The protocol of a judge, whoever provides it.

A judge goes through the paper's three steps for a pair (section 3.2): name what both pictures show, describe each, say
whether they are identical. A judge is a class with these methods and a YAML file in configs/judge/.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from PIL import Image

UNANSWERED = "unanswered"  # class of the reason of a pair that is to be judged again


@dataclass(frozen=True)
class Judgement:
    """The judge's answer on one pair."""

    common_subject: str  # step 1
    reference_description: str  # step 2
    target_description: str
    same: bool  # step 3
    reason: str
    scores: dict[str, float]  # by names of `Judge.scores`; a score that could not be given is absent


@dataclass(frozen=True)
class Refusal:
    """The judge would not or could not answer. Never read this as "not the same"."""

    reason: str
    unanswered: bool = False  # for now only, such as by a provider that is down; the pair is to be judged again

    def __str__(self) -> str:
        return self.reason


Answer = TypeVar("Answer")
Answers = Sequence[Answer | Future[Answer]]


class Judge(Protocol):
    """Takes lists and returns lists of the same length, in order. `scores` names the scores that it gives.

    A judge that runs here judges a list as one batch and returns the answers. A judge that asks a server returns
    futures at once; then `grids_in_flight` is the number of grids whose questions may be under way (without it, 1).
    """

    scores: ClassVar[Sequence[str]]

    def judge(
        self, references: Sequence[Image.Image], targets: Sequence[Image.Image]
    ) -> Answers[Judgement | Refusal]: ...

    def caption(self, images: Sequence[Image.Image]) -> Answers[str | Refusal]:
        """Describe targets: what a prompt for these pictures would say."""
        ...

    def instruct(self, references: Sequence[Image.Image], targets: Sequence[Image.Image]) -> Answers[str | Refusal]:
        """Write edit instructions as InstructPix2Pix has them: what to do with a reference to get the target."""
        ...


def as_futures(answers: Sequence[Any]) -> list[Future[Any]]:
    """Turn the answers of any judge into futures; those that are there already are done."""
    futures = []
    for answer in answers:
        future = answer if isinstance(answer, Future) else Future[Any]()
        if not isinstance(answer, Future):
            future.set_result(answer)
        futures.append(future)
    return futures
