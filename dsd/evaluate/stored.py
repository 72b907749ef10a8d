"""What an evaluation stores so that its tables and its report can be made again without any measure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from datasets import Dataset

from dsd.errors import UserError
from dsd.evaluate.consistency import ScoredGrid
from dsd.evaluate.scoring import Scored
from dsd.io.records import features
from dsd.runs.shards import Shard, read_shards, write_shard

SCORED, GRIDS = "scored", "scored_grids"
Same = Mapping[int, Mapping[tuple[int, int], bool]]  # by grid and pair of panels: whether they show one subject


@dataclass(frozen=True)
class ScoredRow:
    """A picture of a run as it was scored: enough to make every table again, together with the ratings."""

    run: str
    job: str
    scored: str  # JSON of a `Scored`


@dataclass(frozen=True)
class PanelPair:
    """Two panels of a grid, and whether they show one subject by the measure."""

    grid: int
    first: int
    second: int
    same: bool


def write_scored(folder: Path, results: Mapping[str, Dataset], scored: Mapping[str, Sequence[Scored]]) -> None:
    """Write every picture's scores, and the keys of the ratings that they came from."""
    rows = [
        ScoredRow(run, str(job), json.dumps(asdict(one), ensure_ascii=False))
        for run, jobs in scored.items()
        for job, one in zip(results[run]["job"], jobs, strict=True)
    ]
    write_shard(only_shard(folder, SCORED), rows, features(ScoredRow))


def read_scored(folder: Path) -> list[tuple[str, str, Scored]]:
    """Read (run, job, scored) of every picture. UserError where there are none, or of another form."""
    try:
        rows = read_shards(folder, SCORED)
        return [(row["run"], row["job"], Scored(**json.loads(row["scored"]))) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / SCORED}: not the scores of this version of dsd-evaluate ({error})") from error


def same_of(grids: Mapping[int, ScoredGrid]) -> Same:
    """Take from scored grids which pairs of panels show one subject."""
    return {index: grid.scores.same_subject for index, grid in grids.items()}


def write_same(folder: Path, same: Same) -> None:
    """Write which pairs of panels show one subject."""
    rows = [PanelPair(grid, *pair, one) for grid, pairs in same.items() for pair, one in pairs.items()]
    write_shard(only_shard(folder, GRIDS), rows, features(PanelPair))


def read_same(folder: Path) -> Same:
    """Read which pairs of panels show one subject. UserError where nothing about them is stored, or it is damaged."""
    found: dict[int, dict[tuple[int, int], bool]] = {}
    for row in read_shards(folder, GRIDS):
        found.setdefault(row["grid"], {})[row["first"], row["second"]] = row["same"]
    return found


def only_shard(folder: Path, name: str) -> Shard:
    """The one shard that an evaluation writes of a kind."""
    return Shard(0, 0, 0, folder / name / f"{name}-00000-of-00001.parquet")
