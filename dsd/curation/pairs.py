"""From verdicts to training pairs: both directions, with their captions and where they came from."""

from collections.abc import Iterable, Iterator
from typing import Any

from dsd.curation.seams import Cutter
from dsd.curation.selection import Selection
from dsd.records import Pair, Verdict


def directed_pairs(
    grids: Iterable[dict[str, Any]],
    verdicts: dict[int, list[Verdict]],
    cut: Cutter,
    selection: Selection,
    config_hash: str,
) -> Iterator[Pair]:
    """For every verdict the pair first -> second and the pair second -> first, kept or not, in order of grids.

    `verdicts` are by grid index.
    """
    for grid in grids:
        panels = cut(grid["image"], grid["layout"]).images
        for verdict in verdicts.get(grid["index"], []):
            rejection = selection.rejection(verdict)
            first, second = verdict.first, verdict.second
            for reference, target in ((first, second), (second, first)):
                caption = verdict.second_caption if target == second else verdict.first_caption
                instruction = verdict.second_instruction if target == second else verdict.first_instruction
                descriptions = verdict.first_description, verdict.second_description
                reference_description, target_description = descriptions if target == second else descriptions[::-1]
                yield Pair(
                    image=panels[target],
                    conditioning=panels[reference],
                    caption=caption,
                    instruction=instruction,
                    grid=grid["index"],
                    reference_panel=reference,
                    target_panel=target,
                    seed=grid["seed"],
                    prompt=grid["prompt"],
                    relation=grid["relation"],
                    verdict_same=verdict.same,
                    verdict_reason=verdict.reason,
                    common_subject=verdict.common_subject,
                    reference_description=reference_description,
                    target_description=target_description,
                    scores=verdict.scores,
                    kept=not rejection,
                    rejection=rejection,
                    config_hash=config_hash,
                )
