"""List what is to be drawn: a reference and a prompt each, by position."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from datasets import Dataset
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError
from PIL import Image, ImageFilter
from pyarrow import ArrowException
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from dsd.errors import UserError
from dsd.io.inputs import read_jsonl, read_text, regular_file
from dsd.io.pictures import read_picture, to_rgb
from dsd.models.settings import MOST_REFERENCES
from dsd.runs.identity import fingerprint
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_shards

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the prompt is empty")
    text.encode()  # lone surrogates are no text
    return text


def _references(given: Any) -> list[str]:
    """List the references of a job, which are given as one name or as several."""
    files = given if isinstance(given, list) else [given]
    if not all(isinstance(file, str) and file for file in files):
        raise ValueError("the name of a file is needed, or a list of such names")
    if not 0 < len(files) <= MOST_REFERENCES:
        raise ValueError(f"{len(files)} references; a picture takes 1 to {MOST_REFERENCES}")
    return files


Prompt = Annotated[str, AfterValidator(_not_blank)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


@dataclass(frozen=True)
class Job:
    """One picture to make. The seed follows from the run's seed and the position unless it is given."""

    name: str
    reference: Image.Image | Path | bytes
    prompt: str
    seed: int | None = None
    truth: str = ""  # JSON {attribute: value} of the reference's subject, where it is known
    others: tuple[Image.Image | Path | bytes, ...] = ()  # more references; the prompt may say "image 2"
    category: str = ""  # of the subject: "animal"; numbers are told by category
    kind: str = ""  # of the prompt: "photorealistic"; likewise

    def picture(self) -> Image.Image:
        """Read the first reference. UserError where it cannot be read."""
        return self._read(self.reference)

    def pictures(self) -> list[Image.Image]:
        """Read all references. UserError where one cannot be read."""
        return [self._read(reference) for reference in (self.reference, *self.others)]

    def _read(self, reference: Image.Image | Path | bytes) -> Image.Image:
        if isinstance(reference, Image.Image):
            return to_rgb(reference)
        return read_picture(reference, f"reference of {self.name}")


class JobSource(Protocol):
    """The jobs of a run by position, the same ones whenever it is asked."""

    fingerprint: str  # changes when the jobs do

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Job: ...


class JobList:
    """Jobs in a list; `content` names them and their pictures."""

    def __init__(self, jobs: Sequence[Job], content: Sequence[str]) -> None:
        self.jobs = list(jobs)
        self.fingerprint = hashlib.sha256(json.dumps(list(content)).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, position: int) -> Job:
        return self.jobs[position]


def content_of(job: Job) -> str:
    """Name a job whose references are files: its words, and their bytes ("" where one cannot be read)."""
    pictures = []
    for file in (job.reference, *job.others):
        try:
            pictures.append(fingerprint(regular_file(Path(str(file)))))
        except (OSError, UserError):  # this job alone fails, when its turn comes
            pictures.append("")
    return json.dumps([job.name, job.prompt, job.seed, job.truth, job.category, job.kind, *pictures])


class JobRow(BaseModel, extra="forbid"):
    """A line of a jobs file."""

    reference: Annotated[list[str], BeforeValidator(_references)]
    prompt: Prompt
    job: Name | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    truth: str = ""
    category: str = ""
    kind: str = ""


def folder_jobs(path: str, prompt: str | None = None) -> JobList:
    """List every picture of a folder, with the prompt in the .txt of the same name, or else with `prompt`."""
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"jobs.path={path}: no such folder")
    jobs = []
    for file in sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURES):
        beside = file.with_suffix(".txt")
        text = (read_text(beside) if beside.exists() else (prompt or "")).strip()
        if not text:
            raise UserError(f"{file}: no prompt; write one into {beside.name} or give jobs.prompt=")
        jobs.append(Job(file.name, file, text))
    if not jobs:
        raise UserError(f"jobs.path={path}: no pictures there ({', '.join(PICTURES)})")
    return JobList(jobs, list(map(content_of, jobs)))


def jsonl_jobs(path: str) -> JobList:
    """Read one JSON object a line. It has a reference (a path beside the file, or a list of them) and a prompt.

    It may have job, seed, truth, category and kind.
    """
    folder, jobs = Path(path).parent, []
    for number, row in read_jsonl(path, JobRow, "jobs.path", '{"reference": "a.png", "prompt": "..."}'):
        first, *others = row.reference
        name, more = row.job or f"{number:05d}", tuple(folder / other for other in others)
        jobs.append(Job(name, folder / first, row.prompt, row.seed, row.truth, more, row.category, row.kind))
    if not jobs:
        raise UserError(f"jobs.path={path}: no jobs in it")
    return JobList(jobs, list(map(content_of, jobs)))


class ParquetJobs:
    """The rows of a Parquet file: a reference, a prompt, and if wanted job, seed, truth, category and kind.

    A reference is an image or a path beside the file. Pictures are read when their turn comes.
    """

    def __init__(self, path: str, reference: str = "reference", prompt: str = "prompt") -> None:
        self.folder, self.reference, self.prompt = Path(path).parent, reference, prompt
        regular_file(path, "jobs.path")
        try:
            self.rows = Dataset.from_parquet(path)
        except (OSError, ValueError, ArrowException, DatasetGenerationError) as error:
            raise UserError(f"jobs.path={path}: not a readable Parquet file ({_reason(error)})") from error
        if missing := sorted({reference, prompt} - set(self.rows.column_names)):
            columns = ", ".join(self.rows.column_names)
            raise UserError(f"jobs.path={path}: no column {' or '.join(missing)}; its columns: {columns}")
        for number, text in enumerate(self.rows[prompt]):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"jobs.path={path}: row {number}: the prompt is empty")
        if not len(self.rows):
            raise UserError(f"jobs.path={path}: no jobs in it")
        if isinstance(self.rows.features[reference], ImageFeature):
            self.rows = self.rows.cast_column(reference, ImageFeature(decode=False))
        self.fingerprint = fingerprint(path)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Job:
        row = self.rows[position]
        given, seed = row[self.reference], row.get("seed")
        return Job(
            str(row.get("job") or f"{position:05d}"),
            self._place(given),
            row[self.prompt],
            seed if isinstance(seed, int) and 0 <= seed < 2**63 else None,
            str(row.get("truth") or ""),
            category=str(row.get("category") or ""),
            kind=str(row.get("kind") or ""),
        )

    def _place(self, given: Any) -> Path | bytes:
        """Find a reference: its bytes, or a path beside the file; empty bytes where there is none."""
        if isinstance(given, dict):
            return given["bytes"] or (Path(given["path"]) if given["path"] else b"")
        return self.folder / given if isinstance(given, str) else b""


class NegativeJobs:
    """For SFO (arXiv 2506.03621, section 3.2): every pair of dsd-curate, its reference blurred, its prompt generic.

    What the student draws of it is a worse target.
    """

    def __init__(self, path: str, blur: float, prompt: str, num: int | None = None) -> None:
        read_manifest(path, "curation")
        self.fingerprint = fingerprint(path)
        self.pairs = read_shards(path, "pairs").select_columns(["conditioning", "common_subject"])
        self.blur, self.prompt, self.num = blur, prompt, num

    def __len__(self) -> int:
        return min(self.num or len(self.pairs), len(self.pairs))

    def __getitem__(self, position: int) -> Job:
        row = self.pairs[position]
        picture = row["conditioning"]
        blurred = picture.filter(ImageFilter.GaussianBlur(self.blur * max(picture.size)))
        return Job(f"pair-{position:08d}", blurred, self.prompt.format(subject=row["common_subject"] or "the subject"))


def _reason(error: BaseException) -> str:
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
