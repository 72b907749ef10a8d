"""Choose some of a benchmark's jobs: by category, and a number of them spread over all."""

from collections.abc import Sequence
from itertools import pairwise

from dsd.errors import UserError

GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, fill an interval evenly


def chosen(categories: Sequence[str], wanted: Sequence[str] | None, limit: int | None) -> list[int]:
    """List the positions of the chosen jobs, given the category of every job.

    UserError where a wanted category does not exist, or where nothing is left.
    """
    there = sorted(set(categories))
    if unknown := sorted(set(wanted or ()) - set(there)):
        raise UserError(f"jobs.categories: no {', '.join(unknown)} in it; choose from {', '.join(there)}")
    if limit is not None and limit < 1:
        raise UserError(f"jobs.limit={limit}: at least 1 is needed, or null for all jobs")
    positions = [i for i, category in enumerate(categories) if not wanted or category in wanted]
    return [positions[i] for i in spread(len(positions), limit)]


def spread(num: int, limit: int | None) -> list[int]:
    """Choose `limit` of `num` positions, the same ones every time: one from each of `limit` equal parts.

    The place within a part changes from part to part. Equal steps would meet the same prompt of every subject where a
    step is a multiple of the number of prompts.
    """
    if limit is None or limit >= num:
        return list(range(num))
    edges = [i * num // limit for i in range(limit + 1)]
    return [start + int((i * GOLDEN) % 1 * (stop - start)) for i, (start, stop) in enumerate(pairwise(edges))]
