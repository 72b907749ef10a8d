"""What is to be drawn: a reference and a prompt each, by position."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from dsd.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FIELDS = {"reference", "prompt", "job", "seed", "truth"}


@dataclass(frozen=True)
class Job:
    """One picture to make. The seed follows from the run's seed and the position unless it is given."""

    name: str
    reference: Image.Image | Path
    prompt: str
    seed: int | None = None
    truth: str = ""  # JSON {attribute: value} of the reference's subject, where it is known

    def picture(self) -> Image.Image:
        """The reference, read. UserError where it cannot be."""
        return self.reference if isinstance(self.reference, Image.Image) else read_picture(self.reference)


class JobSource(Protocol):
    """Lists the jobs of a run, the same ones whenever it is asked."""

    def __call__(self) -> Sequence[Job]: ...


def read_picture(path: str | Path) -> Image.Image:
    """A picture from a file; the first frame of an animated one. UserError names the file and what is wrong."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such picture") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a readable picture ({error})") from error


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
