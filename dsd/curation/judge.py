"""What a vision-language model does for the method, whoever provides it.

The judge goes through the paper's three steps for a pair (section 3.2): name what both pictures show, describe each,
say whether they are identical. Providers are classes with these methods and a YAML file in configs/judge/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


@dataclass(frozen=True)
class Verdict:
    """The judge's answer on one pair."""

    common_subject: str  # step 1
    reference_description: str  # step 2
    target_description: str
    same: bool  # step 3
    reason: str
    scores: dict[str, float]  # what this judge can put in numbers, such as {"similarity": 0.93}


@dataclass(frozen=True)
class Refusal:
    """The judge would not or could not answer; never to be taken for "not the same"."""

    reason: str

    def __str__(self) -> str:
        return self.reason


class Judge(Protocol):
    """Lists in, lists of the same length out, in order."""

    def judge(
        self, references: Sequence[Image.Image], targets: Sequence[Image.Image]
    ) -> Sequence[Verdict | Refusal]: ...

    def caption(self, images: Sequence[Image.Image]) -> Sequence[str | Refusal]:
        """Target descriptions: what a prompt for this picture would say."""
        ...

    def instruct(self, references: Sequence[Image.Image], targets: Sequence[Image.Image]) -> Sequence[str | Refusal]:
        """Edit instructions in InstructPix2Pix's style: what to do with the reference to get the target."""
        ...
