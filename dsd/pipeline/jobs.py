"""What is to be drawn: a reference and a prompt each, by position."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError
from PIL import Image, ImageFilter

from dsd.errors import UserError
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
        """The reference, read. UserError where it cannot be."""
        if isinstance(self.reference, Image.Image):
            return self.reference
        return read_picture(self.reference, f"reference of {self.name}")


class JobSource(Protocol):
    """Lists the jobs of a run, the same ones whenever it is asked."""

    def __call__(self) -> Sequence[Job]: ...


def read_picture(source: str | Path | bytes, name: str = "") -> Image.Image:
    """A picture from a file or its bytes; the first frame of an animated one. UserError says what is wrong with it."""
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


def folder_jobs(path: str, prompt: str | None = None) -> list[Job]:
    """Every picture of a folder, with the prompt in the .txt of the same name, or else with `prompt`."""
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
    return jobs


def jsonl_jobs(path: str) -> list[Job]:
    """One JSON object a line: reference (a path beside the file), prompt, and if wanted job, seed, truth."""
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
    return jobs


class ParquetJobs(Sequence[Job]):
    """Rows of a Parquet file: a reference (image, or path beside the file), a prompt, and if wanted job, seed, truth.

    Pictures are read when their turn comes.
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

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Job:  # type: ignore[override]
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


class NegativeJobs(Sequence[Job]):
    """For SFO (arXiv 2506.03621, section 3.2): every pair of dsd-curate asked again of a blurred reference, and with no
    more words than what it is. What the student draws of that is a worse target.
    """

    def __init__(self, path: str, blur: float, prompt: str, num: int | None = None) -> None:
        read_manifest(path, "curation")
        self.pairs = read_shards(path, "pairs").select_columns(["conditioning", "common_subject"])
        self.blur, self.prompt, self.num = blur, prompt, num

    def __len__(self) -> int:
        return min(self.num or len(self.pairs), len(self.pairs))

    def __getitem__(self, index: Any) -> Any:
        row = self.pairs[index]
        picture = row["conditioning"]
        blurred = picture.filter(ImageFilter.GaussianBlur(self.blur * max(picture.size)))
        return Job(f"pair-{index:08d}", blurred, self.prompt.format(subject=row["common_subject"] or "the subject"))


def _reason(error: BaseException) -> str:
    return str(error.__cause__ or error).strip().splitlines()[0]
