"""The protocol of a judge, whoever provides it.

A judge goes through the paper's three steps for a pair (section 3.2): name what both pictures show, describe each, say
whether they are identical. A judge is a class with these methods and a YAML file in configs/judge/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

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


class Judge(Protocol):
    """Takes lists and returns lists of the same length, in order. `scores` names the scores that it gives."""

    scores: ClassVar[Sequence[str]]

    def judge(
        self, references: Sequence[Image.Image], targets: Sequence[Image.Image]
    ) -> Sequence[Judgement | Refusal]: ...

    def caption(self, images: Sequence[Image.Image]) -> Sequence[str | Refusal]:
        """Describe targets: what a prompt for these pictures would say."""
        ...

    def instruct(self, references: Sequence[Image.Image], targets: Sequence[Image.Image]) -> Sequence[str | Refusal]:
        """Write edit instructions as InstructPix2Pix has them: what to do with a reference to get the target."""
        ...
