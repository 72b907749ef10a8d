"""Turn verdicts into training pairs: both directions, with their captions and where they came from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from dsd.curation.grids import picture_of
from dsd.curation.reference_sets import reference_sets
from dsd.curation.seams import Cutter
from dsd.curation.selection import Selection
from dsd.curation.verdicts import read_verdicts
from dsd.errors import UserError
from dsd.io.records import Pair, ReferenceSet, Verdict, features
from dsd.runs.shards import Shard, write_shard


@dataclass(frozen=True)
class PairWriter:
    """Writes the pairs of shards of grids whose verdicts are there."""

    grids: Dataset
    verdicts_dir: Path
    cut: Cutter
    selection: Selection
    max_references: int
    config_hash: str

    def write(self, shard: Shard) -> None:
        """Write the rejected pairs, the sets of references and the kept pairs of a shard.

        Kept pairs come last: their file says that the shard is complete.
        """
        write_shard(beside(shard, "rejected"), (p for p in self.pairs(shard) if not p.kept), features(Pair))
        if self.max_references > 1:
            sets = reference_sets((p for p in self.pairs(shard) if p.kept), self.max_references)
            write_shard(beside(shard, "sets"), sets, features(ReferenceSet))
        write_shard(shard, (p for p in self.pairs(shard) if p.kept), features(Pair))

    def pairs(self, shard: Shard) -> Iterator[Pair]:
        """Yield the pairs of grids shard.start..stop-1, kept or not, in order of grids."""
        grids = self.grids.select(range(shard.start, min(shard.stop, len(self.grids))))
        verdicts = read_verdicts(beside(shard, "verdicts", self.verdicts_dir).path, set(grids["index"]))
        for grid in grids:
            found = verdicts.get(grid["index"], [])
            panels = self.cut(picture_of(grid), grid["layout"]).panels if found else []
            for verdict in found:
                if verdict.second >= len(panels):
                    raise UserError(f"grid {verdict.grid} has no panel {verdict.second}, which a verdict names")
                yield from self.both_directions(grid, panels, verdict)

    def both_directions(
        self, grid: Mapping[str, Any], panels: Sequence[Image.Image], verdict: Verdict
    ) -> Iterator[Pair]:
        """Yield the pair first -> second and the pair second -> first."""
        rejection = self.selection.rejection(verdict)
        for forward in (True, False):
            about = directed(verdict, forward)
            yield Pair(
                image=panels[about["target_panel"]],
                conditioning=panels[about["reference_panel"]],
                grid=grid["index"],
                seed=grid["seed"],
                prompt=grid["prompt"],
                relation=grid["relation"],
                verdict_same=verdict.same,
                verdict_reason=verdict.reason,
                common_subject=verdict.common_subject,
                scores=verdict.scores,
                kept=not rejection,
                rejection=rejection,
                config_hash=self.config_hash,
                **about,
            )


def directed(verdict: Verdict, forward: bool) -> dict[str, Any]:
    """Name what a verdict says of its two panels by their roles; forward, the first panel is the reference."""
    v, names = verdict, ("reference_panel", "target_panel", "reference_description", "target_description")
    panels, descriptions = (v.first, v.second), (v.first_description, v.second_description)
    texts = (v.second_caption, v.second_instruction) if forward else (v.first_caption, v.first_instruction)
    ordered = (*panels, *descriptions) if forward else (*panels[::-1], *descriptions[::-1])
    return {**dict(zip(names, ordered, strict=True)), "caption": texts[0], "instruction": texts[1]}


def beside(shard: Shard, name: str, folder: Path | None = None) -> Shard:
    """Name the same part of the work for another kind of record, by default in the same output folder."""
    file = shard.path.name.replace(shard.path.parent.name, name, 1)
    return replace(shard, path=(folder or shard.path.parents[1]) / name / file)
