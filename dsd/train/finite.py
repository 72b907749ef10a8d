"""Refuse a loss that is no number, on all ranks after the same step, without waiting for the device at every step."""

from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from dsd.errors import UserError


@dataclass(frozen=True)
class Loss:
    """The loss of a step, still on the device."""

    step: int
    mean: Tensor  # () over all ranks, which is NaN on each of them if it is on one
    own: Tensor  # () of this rank
    rows: tuple[int, ...]  # of the table, this rank's


@dataclass
class Losses:
    """The losses since the last check. Whoever logs or keeps something of a step checks first."""

    accelerator: Accelerator
    unchecked: list[Loss] = field(default_factory=list)

    def add(self, loss: Loss) -> None:
        """Remember the loss of a step."""
        self.unchecked.append(loss)

    def refuse_nan(self) -> None:
        """Raise UserError on the main rank, with the first such step and its pairs; end the other ranks in silence."""
        if not self.unchecked:
            return
        finite = torch.stack([loss.mean for loss in self.unchecked]).isfinite().tolist()
        for sound, loss in zip(finite, self.unchecked, strict=True):
            if not sound:
                self._refuse(loss)
        self.unchecked.clear()

    def _refuse(self, loss: Loss) -> None:
        own = float(loss.own)
        seen = gather_object([None if torch.isfinite(loss.own) else (own, loss.rows)])
        value, rows = next(filter(None, seen), (float(loss.mean), loss.rows))
        if not self.accelerator.is_main_process:
            raise SystemExit(2)
        raise UserError(
            f"the loss of step {loss.step} is {value}, of the pairs {', '.join(map(str, rows[:16]))}; nothing of that "
            "step was kept: the last checkpoint is good. Lower learning_rate=, or look at these pairs"
        )
