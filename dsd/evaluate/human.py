"""Read what people said, as it is published: DreamBench++'s ratings and ConsistencyRank-Bench's rankings.

DreamBench++ (yuangpeng/dreambench_plus@df0b960, merge_data.py): data_human_rating/raw_data/GROUP/NAME-METHOD.json holds
{"SUBJECT-PROMPT": [CP, PF]}, merged_data/GROUP/METHOD-cp.json and METHOD-pf.json {"SUBJECT-PROMPT": score}; a judge's
are data_gpt_rating/concept_preservation_RUN/METHOD.json and prompt_following_RUN/METHOD.json, in the merged form.
ConsistencyRank-Bench (X-GenGroup/PaCo-RL@9761314, Consistency_Rank/eval.py): consistency_full_rank.jsonl beside
images/FOLDER/*.png and prompt_data.jsonl.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError

from dsd.errors import UserError
from dsd.io.inputs import first_problem, read_jsonl, read_text
from dsd.io.pictures import read_picture
from dsd.metrics.measure import Drawing

Scores = dict[str, float]  # by item, "SUBJECT-PROMPT"
Raters = dict[str, dict[str, dict[str, Scores]]]  # by rubric, method, rater
RUBRICS = {"concept_preservation": "CP", "prompt_following": "PF"}
_merged = TypeAdapter(dict[str, FiniteFloat | None])
_raw = TypeAdapter(dict[str, tuple[FiniteFloat | None, FiniteFloat | None]])
_ITEM = re.compile(r"(?P<subject>.+)[-/](?P<prompt>\d+)(_\d+)?")


def method_name(name: str) -> str:
    """Write a method as DreamBench++'s files do."""
    return name.replace(" ", "_").replace("-", "_").lower()


def item_name(job: str) -> str:
    """Name a job as DreamBench++ does: "object_01_mug/3_0" -> "object_01_mug-3". Other jobs keep their names."""
    match = _ITEM.fullmatch(job)
    return f"{match['subject']}-{match['prompt']}" if match else job


def subject_of(item: str) -> str:
    """The subject of an item: "object_01_mug-3" -> "object_01_mug". Its ratings are resampled together."""
    match = _ITEM.fullmatch(item)
    return match["subject"] if match else item


def read_people(folder: str | Path) -> Raters:
    """Read the ratings of every group of people. UserError where there are none, or a file is not of that form."""
    root, found = Path(folder), Raters()
    inner = next((root / name for name in ("merged_data", "raw_data") if (root / name).is_dir()), root)
    for group in sorted(path for path in inner.iterdir() if path.is_dir()) if inner.is_dir() else ():
        for file in sorted(group.glob("*.json")):
            if file.stem.endswith(("-cp", "-pf")):
                method, rubric = file.stem[:-3], file.stem[-2:].upper()
                add(found, rubric, method, group.name, present(_read(file, _merged)))
                continue
            both, method = _read(file, _raw), file.stem.rpartition("-")[2]
            for position, rubric in enumerate(("CP", "PF")):
                add(found, rubric, method, group.name, present({k: v[position] for k, v in both.items()}))
    if not found:
        raise UserError(f"agreement.ratings={folder}: no ratings, such as GROUP/METHOD-cp.json; see docs/judges.md")
    return found


def read_published_judge(folder: str | Path) -> Raters:
    """Read a judge's ratings as DreamBench++ publishes them; each run of it is a rater. {} where there are none."""
    found = Raters()
    for kind, rubric in RUBRICS.items():
        for run in sorted(Path(folder).glob(f"{kind}*")):
            for file in sorted(run.glob("*.json")):
                name = run.name.removeprefix(kind).strip("_") or "full"
                add(found, rubric, file.stem, name, present(_read(file, _merged)))
    return found


def add(raters: Raters, rubric: str, method: str, rater: str, scores: Scores) -> None:
    """Add ratings to those that a rater gave before."""
    raters.setdefault(rubric, {}).setdefault(method_name(method), {}).setdefault(rater, {}).update(scores)


def present(scores: dict[str, float | None]) -> Scores:
    """Leave out what was not rated."""
    return {item: score for item, score in scores.items() if score is not None}


def _read(file: Path, form: TypeAdapter[Any]) -> Any:
    try:
        return form.validate_json(read_text(file))
    except ValidationError as error:
        raise UserError(f"{file}: {first_problem(error)}; not ratings of DreamBench++") from error


class Ranked(BaseModel):
    """A line of consistency_full_rank.jsonl: candidates, and their order by people, the best one first."""

    folder: str
    ref_image: str
    comp_images: list[str]
    rank_images: list[str]


class Prompted(BaseModel):
    """A line of prompt_data.jsonl."""

    idx: str
    prompt: str = ""


@dataclass(frozen=True)
class Ranking:
    """A reference with candidates that people ranked."""

    unit: str  # the folder
    drawings: list[Drawing]  # one a candidate
    best_first: list[int]  # positions of the candidates


@dataclass(frozen=True)
class Unread:
    """A ranking whose pictures are still on disk."""

    pictures: Path
    row: Ranked
    prompt: str

    def read(self) -> Ranking:
        """Read the pictures."""
        row = self.row
        reference = read_picture(self.pictures / row.ref_image).convert("RGB")
        candidates = [read_picture(self.pictures / name).convert("RGB") for name in row.comp_images]
        best_first = [row.comp_images.index(name) for name in row.rank_images]
        return Ranking(row.folder, [Drawing(picture, reference, self.prompt) for picture in candidates], best_first)


def read_rankings(folder: str | Path) -> list[Unread]:
    """Check every line. UserError names the one that cannot work."""
    root, lines = Path(folder), Path(folder) / "consistency_full_rank.jsonl"
    prompts = {}
    if (root / "prompt_data.jsonl").is_file():
        prompts = {row.idx: row.prompt for _, row in read_jsonl(root / "prompt_data.jsonl", Prompted)}
    rows = list(read_jsonl(lines, Ranked, "agreement.rankings"))
    for number, row in rows:
        if sorted(row.comp_images) != sorted(row.rank_images) or len({*row.comp_images}) < max(2, len(row.comp_images)):
            raise UserError(f"{lines}:{number}: rank_images must order two or more comp_images")
        for name in (row.ref_image, *row.comp_images):
            if not (root / "images" / row.folder / name).is_file():
                raise UserError(f"{lines}:{number}: no picture images/{row.folder}/{name}")
    return [Unread(root / "images" / row.folder, row, prompts.get(row.folder, "")) for _, row in rows]
