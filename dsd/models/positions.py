"""Position ids: where tokens stand, (index, row, column) each.

Panels of a canvas and reference tokens are told apart by these ids alone. A family turns them into the ids of its own
transformer.
"""

import torch
from torch import Tensor


def grid(rows: int, columns: int, index: int = 0, row: int = 0, column: int = 0) -> Tensor:
    """Place a picture of rows x columns tokens at an offset: (rows * columns, 3)."""
    r, c = torch.meshgrid(torch.arange(row, row + rows), torch.arange(column, column + columns), indexing="ij")
    return torch.stack([torch.full_like(r, index), r, c], dim=-1).flatten(0, 1).float()


def column(rows: int, columns: int, num: int) -> tuple[Tensor, Tensor]:
    """Place the references one below another, and the target on their right: the canvas's places."""
    references = [grid(rows, columns, row=k * rows) for k in range(num)]
    return grid(rows, columns, column=columns), _together(references)


def diagonal(rows: int, columns: int, num: int) -> tuple[Tensor, Tensor]:
    """Begin each reference where the picture before it ends, as in UNO (arXiv 2504.02160, section 3.3)."""
    references = [grid(rows, columns, row=(k + 1) * rows, column=(k + 1) * columns) for k in range(num)]
    return grid(rows, columns), _together(references)


def kontext(rows: int, columns: int, num: int) -> tuple[Tensor, Tensor]:
    """Lay each reference over the target with an index of its own, 1, 2, ..., as in FLUX.1 Kontext."""
    return grid(rows, columns), _together([grid(rows, columns, index=k + 1) for k in range(num)])


def flux2(rows: int, columns: int, num: int) -> tuple[Tensor, Tensor]:
    """Lay each reference over the target with an index of its own, 10, 20, ..., as in FLUX.2."""
    return grid(rows, columns), _together([grid(rows, columns, index=10 * (k + 1)) for k in range(num)])


def shared(rows: int, columns: int, num: int) -> tuple[Tensor, Tensor]:
    """Give each reference the target's own ids: for edits that move nothing. No stock pipeline places them so."""
    return grid(rows, columns), _together([grid(rows, columns)] * num)


# Z-Image places pictures by itself and only wants to know which is which.
RULES = {
    "column": column, "diagonal": diagonal, "kontext": kontext, "flux2": flux2, "shared": shared, "z_image": kontext,
}  # fmt: skip


def _together(pictures: list[Tensor]) -> Tensor:
    return torch.cat(pictures) if pictures else torch.zeros(0, 3)
