"""List what is to be drawn: a reference and a prompt each, by position."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

from datasets import Dataset
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError
from PIL import Image, ImageFilter

from dsd.errors import UserError
from dsd.runs.identity import fingerprint
from dsd.runs.manifest import read_manifest
from dsd.runs.shards import read_shards

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FIELDS = {"reference", "prompt", "job", "seed", "truth"}


@dataclass(frozen=True)
class Job:
    """One picture to make. The seed follows from the run's seed and the position unless it is given."""

    name: str
    reference: Image.Image | Path | bytes
    prompt: str
    seed: int | None = None
    truth: str = ""  # JSON {attribute: value} of the reference's subject, where it is known

    def picture(self) -> Image.Image:
        """Read the reference. UserError where it cannot be read."""
        if isinstance(self.reference, Image.Image):
            return self.reference
        return read_picture(self.reference, f"reference of {self.name}")


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
    """Name a job whose reference is a file: its words, and the bytes of the picture ("" where there is none)."""
    file = Path(str(job.reference))
    picture = fingerprint(file) if file.is_file() else ""
    return json.dumps([job.name, job.prompt, job.seed, job.truth, picture])


def read_picture(source: str | Path | bytes, name: str = "") -> Image.Image:
    """Read a picture from a file or its bytes, the first frame of an animated one. UserError says what is wrong."""
    file, where = (BytesIO(source), name) if isinstance(source, bytes) else (source, str(source))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large; an error says too large
            with Image.open(file) as image:
                image.load()
                return image.copy()
    except FileNotFoundError as error:
        raise UserError(f"{where}: no such picture") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: not a readable picture ({error})") from error


def folder_jobs(path: str, prompt: str | None = None) -> JobList:
    """List every picture of a folder, with the prompt in the .txt of the same name, or else with `prompt`."""
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"jobs.path={path}: no such folder")
    jobs = []
    for file in sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURES):
        beside = file.with_suffix(".txt")
        text = beside.read_text(encoding="utf-8").strip() if beside.is_file() else (prompt or "")
        if not text:
            raise UserError(f"{file}: no prompt; write one into {beside.name} or give jobs.prompt=")
        jobs.append(Job(file.name, file, text))
    if not jobs:
        raise UserError(f"jobs.path={path}: no pictures there ({', '.join(PICTURES)})")
    return JobList(jobs, list(map(content_of, jobs)))


def jsonl_jobs(path: str) -> JobList:
    """Read one JSON object a line: reference (a path beside the file), prompt, and if wanted job, seed, truth."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"jobs.path={path}: no such file")
    jobs = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            unknown = set(row) - FIELDS
            jobs.append(
                Job(
                    str(row.get("job", f"{number:05d}")),
                    file.parent / row["reference"],
                    str(row["prompt"]),
                    None if row.get("seed") is None else int(row["seed"]),
                    str(row.get("truth", "")),
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'{file}:{number}: not a job ({error!r}); each line is {{"reference": ..., "prompt": ...}}'
            ) from error
        if unknown:
            raise UserError(
                f"{file}:{number}: unknown field {', '.join(sorted(unknown))}; known: {', '.join(sorted(FIELDS))}"
            )
        if not jobs[-1].prompt.strip():
            raise UserError(f"{file}:{number}: the prompt is empty")
    if not jobs:
        raise UserError(f"jobs.path={path}: no jobs in it")
    return JobList(jobs, list(map(content_of, jobs)))


class ParquetJobs:
    """The rows of a Parquet file: a reference, a prompt, and if wanted job, seed and truth.

    A reference is an image or a path beside the file. Pictures are read when their turn comes.
    """

    def __init__(self, path: str, reference: str = "reference", prompt: str = "prompt") -> None:
        self.folder, self.reference, self.prompt = Path(path).parent, reference, prompt
        try:
            self.rows = Dataset.from_parquet(path)
        except (OSError, ValueError, DatasetGenerationError) as error:
            raise UserError(f"jobs.path={path}: not a readable Parquet file ({_reason(error)})") from error
        if missing := sorted({reference, prompt} - set(self.rows.column_names)):
            columns = ", ".join(self.rows.column_names)
            raise UserError(f"jobs.path={path}: no column {' or '.join(missing)}; its columns: {columns}")
        for number, text in enumerate(self.rows[prompt]):
            if not (text or "").strip():
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
        given = row[self.reference]
        seed = row.get("seed")
        return Job(
            str(row.get("job") or f"{position:05d}"),
            given["bytes"] or Path(given["path"]) if isinstance(given, dict) else self.folder / str(given),
            row[self.prompt],
            None if seed is None else int(seed),
            str(row.get("truth") or ""),
        )


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
    return str(error.__cause__ or error).strip().splitlines()[0]
