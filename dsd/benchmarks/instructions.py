"""Data sets of instructions about several pictures: OmniContext and SconeEval.

OmniContext (arXiv 2506.18871): columns key, task_type, instruction and input_images, read from Parquet in
VectorSpaceLab/OmniGen2@63a3b7b, `omnicontext/inference.py`. The same as `data.jsonl`, with pictures named by their path
beside it, in Ryann-Ran/Scone@25c2e08, `inference_benchmark.py`. SconeEval (arXiv 2512.12675) has that second form;
`eval/s2i/sconeeval/test_score.py` also reads case_type, and of tasks of distinction subject_list (the subjects that
each picture shows) and subject_label (1 for those that are asked for).

A job is named `{task_type}-{key}`. Its category is the task type, its kind the case type.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from datasets import Dataset, List
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError
from pyarrow import ArrowException
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, model_validator

from dsd.benchmarks.folders import job_list
from dsd.benchmarks.selection import chosen
from dsd.errors import UserError
from dsd.io.inputs import first_problem, read_jsonl
from dsd.pipeline.jobs import Job, JobList, JobSource, Prompt
from dsd.runs.identity import fingerprint

LIST = "data.jsonl"
EXAMPLE = '{"key": "0001", "task_type": "single_object", "instruction": "...", "input_images": ["a.png"]}'


def _listed(given: Any) -> Any:
    """Take one picture as a list of one, as `inference_benchmark.py` does."""
    return given if isinstance(given, list) else [given]


def _folder_name(text: str) -> str:
    if "/" in text or not text.strip(". "):
        raise ValueError(f"{text!r} names no file")
    return text


FolderName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_folder_name)]


class Row(BaseModel):
    """A line of data.jsonl. Further keys are the benchmark's own business."""

    key: Annotated[FolderName, BeforeValidator(lambda key: str(key) if isinstance(key, int) else key)]
    task_type: FolderName
    instruction: Prompt
    input_images: Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed), Field(min_length=1)]
    case_type: str = ""
    subject_list: list[list[str]] | None = None
    subject_label: list[list[int]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _input_image(cls, row: Any) -> Any:
        """Some rows about one picture say input_image."""
        if isinstance(row, Mapping) and not row.get("input_images") and row.get("input_image"):
            return {**row, "input_images": row["input_image"]}
        return row


def omnicontext(path: str, limit: int | None = None, categories: list[str] | None = None) -> JobSource:
    """List the jobs of OmniContext, from its Parquet files or from data.jsonl with pictures beside it."""
    if not (Path(path) / LIST).is_file() and (files := parquet_files(path)):
        return ParquetInstructions(path, files, limit, categories)
    return listed_jobs(path, "OmniContext", limit, categories)


def sconeeval(path: str, limit: int | None = None, categories: list[str] | None = None) -> JobList:
    """List the jobs of SconeEval; of tasks of distinction the truth says which subjects are asked for."""
    return listed_jobs(path, "SconeEval", limit, categories)


def listed_jobs(path: str, what: str, limit: int | None, categories: list[str] | None) -> JobList:
    """List the jobs of a data.jsonl. UserError names the line and what is wrong with it."""
    folder = Path(path)
    if not (folder / LIST).is_file():
        raise UserError(f"jobs.path={path}: not the data of {what}: no {LIST} there")
    rows = [row for _, row in read_jsonl(folder / LIST, Row, example=EXAMPLE)]
    if not rows:
        raise UserError(f"jobs.path={path}: {LIST} is empty")
    return job_list([job_of(row, folder) for row in rows], categories, limit, path)


def job_of(row: Row, folder: Path) -> Job:
    """Make the job of a line."""
    first, *others = [folder / name for name in row.input_images]
    truth = {"subject_list": row.subject_list, "subject_label": row.subject_label}
    return Job(
        f"{row.task_type}-{row.key}", first, row.instruction,
        truth=json.dumps(truth, ensure_ascii=False) if row.subject_list else "",
        others=tuple(others), category=row.task_type, kind=row.case_type,
    )  # fmt: skip


def parquet_files(path: str) -> list[Path]:
    """Find the Parquet files of a folder, or of its data/."""
    return sorted(Path(path).glob("*.parquet")) or sorted((Path(path) / "data").glob("*.parquet"))


class TextRow(BaseModel):
    """The words of a row of OmniContext's Parquet files."""

    key: FolderName
    task_type: FolderName
    instruction: Prompt


class ParquetInstructions:
    """OmniContext's Parquet files; pictures are read when their turn comes."""

    def __init__(self, path: str, files: list[Path], limit: int | None, categories: list[str] | None) -> None:
        try:
            rows = Dataset.from_parquet([str(file) for file in files])
        except (OSError, ValueError, ArrowException, DatasetGenerationError) as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise UserError(f"jobs.path={path}: not readable Parquet files ({reason})") from error
        words = list(TextRow.model_fields)
        if missing := sorted({*words, "input_images"} - set(rows.column_names)):
            raise UserError(f"jobs.path={path}: not the data of OmniContext: no column {', '.join(missing)}")
        self.texts = []
        for number, row in enumerate(rows.select_columns(words)):
            try:
                self.texts.append(TextRow.model_validate(row))
            except ValidationError as error:
                raise UserError(f"jobs.path={path}: row {number}: {first_problem(error)}") from error
        self.rows = rows.select_columns(["input_images"]).cast_column("input_images", List(ImageFeature(decode=False)))
        self.positions = chosen([text.task_type for text in self.texts], categories, limit)
        self.fingerprint = " ".join([*map(fingerprint, files), str(limit), *(categories or ())])

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> Job:
        at = self.positions[position]
        text = self.texts[at]
        pictures = [(cell or {}).get("bytes") or b"" for cell in self.rows[at]["input_images"]] or [b""]
        name = f"{text.task_type}-{text.key}"
        return Job(name, pictures[0], text.instruction, others=tuple(pictures[1:]), category=text.task_type)
