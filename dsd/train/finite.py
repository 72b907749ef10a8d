"""Refuse a loss or gradient that is no number, on all ranks after the same step, without a wait for every step."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from dsd.errors import UserError
from dsd.train.lost import LATER

SHOWN = 16  # pairs in a message


@dataclass(frozen=True)
class Loss:
    """The loss of a step, still on the device."""

    step: int
    mean: Tensor  # () over all ranks, which is NaN on each of them if it is on one
    own: Tensor  # () of this rank
    positions: tuple[int, ...]  # of this rank's pairs in their source
    norm: Tensor  # () of the gradient of all ranks


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
        means = torch.stack([loss.mean for loss in self.unchecked]).isfinite().tolist()
        norms = torch.stack([loss.norm for loss in self.unchecked]).isfinite().tolist()
        for sound_loss, sound_norm, loss in zip(means, norms, self.unchecked, strict=True):
            if not sound_loss:
                self._refuse_loss(loss)
            if not sound_norm:
                self._end(f"the gradient of step {loss.step} is {float(loss.norm)}, of pairs such as {shown(loss)}")
        self.unchecked.clear()

    def refuse_weights(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Refuse tensors that are not finite after `step` steps. All ranks call it; the main one has the tensors."""
        bad = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
        (bad,) = broadcast_object_list([bad])
        if bad is not None:
            self._end(f"the weights are not finite after step {step - 1}, such as {bad}")

    def _refuse_loss(self, loss: Loss) -> None:
        own = float(loss.own)
        seen = gather_object([None if torch.isfinite(loss.own) else (self.accelerator.process_index, own, shown(loss))])
        rank, value, pairs = next(filter(None, seen), (None, float(loss.mean), shown(loss)))
        where = f" on rank {rank}" if rank is not None and len(seen) > 1 else ""
        self._end(f"the loss of step {loss.step} is {value}{where}, of the pairs {pairs}")

    def _end(self, what: str) -> None:
        if not self.accelerator.is_main_process:
            time.sleep(LATER)  # torchrun ends the main rank when another one has ended
            raise SystemExit(2)
        raise UserError(
            f"{what}; nothing of that step was kept: the last checkpoint is good. Lower learning_rate=, or look at "
            "these pairs"
        )


def shown(loss: Loss) -> str:
    """List the pairs of a loss."""
    return ", ".join(map(str, loss.positions[:SHOWN]))
