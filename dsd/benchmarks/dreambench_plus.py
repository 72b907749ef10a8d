"""DreamBench++ (arXiv 2406.16855): 150 pictures, 9 prompts each.

The layout is that of yuangpeng/dreambench_plus@df0b960, `dreambench_plus/dreambench_plus_dataset.py`:
`images/**/NN.jpg` and `captions/**/NN.txt` in parallel. A caption file has the subject in its first line and nine
prompts below it: 0-3 photorealistic, 4-6 style transfer, 7-8 imaginative (`benchmarking.py`). A job is named
`{collection_id}-{prompt_index}`, as the scores there are; the collection is `{category}_{NN}_{subject}`, in lower case
with `_` for spaces, and `live_subject_` before animal and human.
"""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from dsd.benchmarks.folders import data_folder, job_list
from dsd.errors import UserError
from dsd.io.inputs import first_problem, read_text
from dsd.pipeline.jobs import Job, JobList, Prompt

KINDS = ("photorealistic",) * 4 + ("style",) * 3 + ("imaginative",) * 2  # of the nine prompts
LIVE = ("animal", "human")


def _one_name(subject: str) -> str:
    if "/" in subject or not subject.strip("."):
        raise ValueError(f"{subject!r} names no folder")
    return subject


class Captions(BaseModel):
    """A caption file."""

    subject: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_one_name)]
    prompts: Annotated[list[Prompt], Field(min_length=9, max_length=9)]


def jobs(path: str, limit: int | None = None, categories: list[str] | None = None) -> JobList:
    """List a job for every picture and prompt. UserError where the folder is not the data set."""
    folder = data_folder(path, "data", ("images", "captions"), "DreamBench++ (images/ and captions/)")
    pictures = files_of(folder / "images", (".jpg", ".jpeg", ".png"))
    captions = files_of(folder / "captions", (".txt",))
    if not captions:
        raise UserError(f"jobs.path={path}: not the data of DreamBench++: no captions/**/NN.txt there")
    if alone := sorted(captions.keys() - pictures.keys()):
        raise UserError(f"jobs.path={path}: {captions[alone[0]].relative_to(folder)} has no picture in images/")
    if alone := sorted(pictures.keys() - captions.keys()):
        raise UserError(f"jobs.path={path}: {pictures[alone[0]].relative_to(folder)} has no captions in captions/")
    made = [job for key in captions for job in jobs_of(pictures[key], captions[key])]
    return job_list(sorted(made, key=lambda job: job.name.rsplit("-", 1)), categories, limit, path)


def told_by(collection: str, index: int) -> tuple[str, str]:
    """Tell category and kind from a collection's name and a prompt's index; twice "" where the name is another one."""
    category = collection.removeprefix("live_subject_").split("_", 1)[0]
    known = category in (*LIVE, "object", "style") and 0 <= index < len(KINDS)
    return (category, KINDS[index]) if known else ("", "")


def files_of(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Find the files below a folder by their path without ending, in order."""
    found = (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in endings)
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in found}


def jobs_of(picture: Path, captions: Path) -> list[Job]:
    """Make the nine jobs of a picture."""
    subject, *prompts = [line.strip() for line in read_text(captions).strip().splitlines()] or [""]
    try:
        known = Captions(subject=subject, prompts=prompts)
    except ValidationError as error:
        raise UserError(
            f"{captions}: {first_problem(error)}; a subject and 9 prompts, a line each, are needed"
        ) from error
    category = captions.parent.name
    collection = "_".join(
        ["live_subject_" + category if category in LIVE else category, captions.stem,
         known.subject.lower().replace(" ", "_")]
    )  # fmt: skip
    return [
        Job(f"{collection}-{i}", picture, prompt, category=category, kind=kind)
        for i, (prompt, kind) in enumerate(zip(known.prompts, KINDS, strict=True))
    ]
