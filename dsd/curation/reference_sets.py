"""Collect several references of one target, for models that take them (UNO, IP-Adapters); DSD itself takes one."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from dsd.io.records import Pair, ReferenceSet


def reference_sets(pairs: Iterable[Pair], most: int) -> Iterator[ReferenceSet]:
    """Yield, for every target with at least two references among the kept pairs, the first `most` of them by panel."""
    of_target: defaultdict[tuple[int, int], list[Pair]] = defaultdict(list)
    for pair in pairs:
        of_target[pair.grid, pair.target_panel].append(pair)
    for (grid, target), found in sorted(of_target.items()):
        chosen = sorted(found, key=lambda pair: pair.reference_panel)[:most]
        if len(chosen) > 1:
            yield ReferenceSet(
                image=chosen[0].image,
                references=[pair.conditioning for pair in chosen],
                caption=chosen[0].caption,
                common_subject=chosen[0].common_subject,
                grid=grid,
                target_panel=target,
                reference_panels=[pair.reference_panel for pair in chosen],
                config_hash=chosen[0].config_hash,
            )
