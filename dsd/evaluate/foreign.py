"""Read pictures that other tools made: DreamBench++'s samples, a folder of pictures named by job, Parquet.

References and prompts come from the jobs (`jobs=`), or from the samples and the Parquet file themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
from datasets import Dataset
from PIL import Image
from pyarrow import ArrowException
from pydantic import BaseModel, BeforeValidator, StrictBytes, ValidationError

from dsd.benchmarks import layouts
from dsd.benchmarks.dreambench_plus import told_by
from dsd.errors import UserError
from dsd.evaluate.records import decoded_when_used, undecoded
from dsd.io.inputs import first_problem, read_text
from dsd.io.pictures import png
from dsd.io.records import Result, features
from dsd.pipeline.jobs import Job, JobSource
from dsd.runs.identity import CONFIG, fingerprint
from dsd.runs.manifest import MANIFEST

Cell = dict[str, Any]  # a picture: {"bytes": ..., "path": ...}


@dataclass(frozen=True)
class Foreign:
    """The pictures of a method that another tool made."""

    results: Dataset  # of Result
    missing: int  # jobs without a picture
    others: int  # pictures that belong to no job
    content: str  # names the files


def is_foreign(path: str) -> bool:
    """Tell whether a path holds pictures, and is no folder of dsd-infer, finished or not."""
    folder = Path(path)
    if folder.is_file():
        return folder.suffix == ".parquet"
    if not folder.is_dir() or (folder / MANIFEST).exists() or (folder / CONFIG).exists():
        return False
    return layouts.is_samples(folder) or any(folder.glob("*.parquet")) or bool(layouts.pictures_below(folder))


def open_foreign(name: str, path: str, jobs: JobSource | None) -> Foreign:
    """Open pictures. UserError where references or prompts are unknown, or where no picture belongs to a job."""
    folder = Path(path)
    if folder.is_file() or any(folder.glob("*.parquet")):
        given = parquet_rows(name, folder, alone=jobs is None)
    elif layouts.is_samples(folder):
        given = sample_rows(name, folder, alone=jobs is None)
    elif jobs is None:
        raise UserError(
            f"{name}={path}: pictures without references and prompts; give the jobs as well, such as "
            "jobs=dreambench_plus jobs.path=..."
        )
    else:
        given = picture_rows(folder)
    asked = [jobs[i] for i in range(len(jobs))] if jobs is not None else None
    if asked is None:
        found = list(given.values())
    else:
        found = [row for job in asked if (row := of_job(job, given_to(job, given)))]
    if not found:
        raise UserError(f"{name}={path}: none of its {len(given)} pictures belongs to a job of jobs=")
    columns = {column: [row[column] for row in found] for column in features(Result)}
    results = Dataset.from_dict(columns, features=undecoded(features(Result)))
    missing = 0 if asked is None else len(asked) - len(found)
    return Foreign(decoded_when_used(results, path, files=True), missing, len(given) - len(found), fingerprint(folder))


def row_of(job: str, image: Cell, reference: Cell, prompt: str, **others: Any) -> dict[str, Any]:
    """Make a Result of what is known."""
    empty = {"others": [], "seed": 0, "method": "foreign", "category": "", "kind": "", "truth": "", "config_hash": ""}
    return {**empty, "job": job, "image": image, "reference": reference, "prompt": prompt, **others}


def of_file(file: Path) -> Cell:
    """A picture that stays in its file until it is used."""
    return {"bytes": None, "path": str(file)}


def of_reference(reference: Image.Image | Path | bytes) -> Cell:
    """A job's reference as a cell."""
    if isinstance(reference, Path):
        return of_file(reference)
    return {"bytes": reference if isinstance(reference, bytes) else png(reference), "path": None}


def of_job(job: Job, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Make the Result of a job from its picture; None where it has none."""
    if given is None:
        return None
    others = [of_reference(other) for other in job.others]
    known = {"category": job.category, "kind": job.kind, "truth": job.truth, "others": others}
    return row_of(job.name, given["image"], of_reference(job.reference), job.prompt, **known)


def given_to(job: Job, given: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Find what was made for a job."""
    return next((given[name] for name in layouts.names_of(job.name, job.category) if name in given), None)


def picture_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Find pictures by their path without ending."""
    return {name: {"image": of_file(file)} for name, file in layouts.pictures_below(folder).items()}


def sample_rows(name: str, folder: Path, alone: bool) -> dict[str, dict[str, Any]]:
    """Read DreamBench++'s samples by job; `alone` with the references and texts beside them."""
    rows = {}
    for job, file in layouts.read_samples(folder).items():
        collection, index = layouts.sample_of(job)
        rows[job] = {"image": of_file(file)}
        if alone:
            reference = folder / layouts.SOURCES / file.relative_to(folder / layouts.TARGETS)
            text = (folder / layouts.TEXTS / file.relative_to(folder / layouts.TARGETS)).with_suffix(".txt")
            for beside in (reference, text):
                if not beside.is_file():
                    raise UserError(f"{name}={folder}: {beside.relative_to(folder)} is missing; or give jobs=")
            category, kind = told_by(collection, index)
            prompt = read_text(text).strip()
            rows[job] = row_of(job, of_file(file), of_file(reference), prompt, category=category, kind=kind)
    return rows


class Picture(BaseModel):
    """A picture in Parquet, as `datasets` stores it: its bytes, or a path beside the file."""

    bytes: StrictBytes | None = None
    path: str | None = None


class ForeignRow(BaseModel):
    """A row of a Parquet file: a picture, and what is known of its job."""

    image: Picture
    job: Annotated[str, BeforeValidator(lambda job: str(job) if isinstance(job, int) else job)] | None = None
    reference: Picture | None = None
    others: list[Picture] | None = None
    prompt: str | None = None
    seed: int | None = None
    method: str | None = None
    category: str | None = None
    kind: str | None = None
    truth: str | None = None


def parquet_rows(name: str, path: Path, alone: bool) -> dict[str, dict[str, Any]]:
    """Read rows by job; `alone` with their own references and prompts. UserError names the row and what is wrong."""
    rows: dict[str, dict[str, Any]] = {}
    for file in [path] if path.is_file() else sorted(path.glob("*.parquet")):
        try:
            table = pq.read_table(file).to_pylist()
        except (ArrowException, OSError) as error:
            raise UserError(f"{name}={file}: not a readable Parquet file ({str(error).splitlines()[0]})") from error
        for number, cells in enumerate(table):
            where = f"{name}={file}: row {number}"
            try:
                row = ForeignRow.model_validate(cells)
            except ValidationError as error:
                raise UserError(f"{where}: {first_problem(error)}") from error
            if alone and (row.reference is None or row.prompt is None):
                raise UserError(f"{where}: no reference or no prompt; or give jobs=")
            job = layouts.plain_name(row.job or f"{len(rows):05d}")
            if job in rows:
                raise UserError(f"{where}: a second picture of job {job}")
            known = row.model_dump(exclude_none=True, exclude={"job", "image", "reference", "prompt", "others"})
            others = [placed(other, file.parent) for other in row.others or ()]
            reference = placed(row.reference or row.image, file.parent)
            rows[job] = row_of(job, placed(row.image, file.parent), reference, row.prompt or "", others=others, **known)
    return rows


def placed(picture: Picture, folder: Path) -> Cell:
    """A cell whose path, if it has one alone, lies beside the Parquet file."""
    return {"bytes": picture.bytes, "path": str(folder / (picture.path or "")) if picture.bytes is None else None}
