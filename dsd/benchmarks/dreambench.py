"""DreamBooth's data set, called DreamBench (arXiv 2208.12242): 30 subjects, 25 prompts each.

The layout is that of google/dreambooth@e9b8c01, `dataset/`: a folder of pictures for each subject, and
`prompts_and_classes.txt` with the class of every subject, 25 prompts for objects and 25 for live subjects. The file
does not say which subjects live; in the data set those are the cats and dogs. Prompts are written for a unique token
and a class, "a {0} {1} in the jungle"; a method that sees the subject in a picture gets them without the token.
"""

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from dsd.benchmarks.folders import data_folder, job_list
from dsd.errors import UserError
from dsd.io.inputs import first_problem, read_text
from dsd.pipeline.jobs import PICTURES, Job, JobList, Prompt

LIST = "prompts_and_classes.txt"
SECTIONS = ("Classes", "Prompts", "Object Prompts", "Live Subject Prompts")
TEMPLATE = re.compile(r"""^\s*(['"])(?P<text>.*)\1\.format\(""")


class Known(BaseModel):
    """What `prompts_and_classes.txt` says."""

    classes: Annotated[dict[str, Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    object_prompts: Annotated[list[Prompt], Field(min_length=25, max_length=25)]
    live_prompts: Annotated[list[Prompt], Field(min_length=25, max_length=25)]


def jobs(
    path: str,
    limit: int | None = None,
    categories: list[str] | None = None,
    references: int = 1,
    live: tuple[str, ...] = ("cat", "dog"),
) -> JobList:
    """List a job for every subject and prompt, with the first `references` pictures of the subject.

    `live` names the classes that get the prompts for live subjects. UserError where the folder is not the data set.
    """
    folder = data_folder(path, "dataset", (LIST,), "DreamBench")
    if references < 1:
        raise UserError(f"jobs.references={references}: at least 1 is needed")
    known, made = read_known(folder / LIST), []
    for subject, name in known.classes.items():
        category = "live" if name in live else "object"
        first, *others = pictures_of(folder / subject, references, path)
        prompts = known.live_prompts if category == "live" else known.object_prompts
        for i, template in enumerate(prompts):
            prompt = " ".join(template.replace("{0}", "").replace("{1}", name).split())
            made.append(Job(f"{subject}-{i}", first, prompt, others=tuple(others), category=category))
    return job_list(made, categories, limit, path)


def pictures_of(folder: Path, references: int, path: str) -> list[Path]:
    """Find the first pictures of a subject."""
    found = sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURES) if folder.is_dir() else []
    if not found:
        raise UserError(f"jobs.path={path}: subject {folder.name} of {LIST} has no pictures there")
    return found[:references]


def read_known(file: Path) -> Known:
    """Read classes and prompts. UserError names what is missing."""
    section, classes = "", {}
    prompts: dict[str, list[str]] = {name: [] for name in SECTIONS}
    for line in map(str.strip, read_text(file).splitlines()):
        if line in SECTIONS:
            section = line
        elif section == "Classes" and "," in line and line != "subject_name,class":
            subject, name = line.split(",", 1)
            classes[subject.strip()] = name.strip()
        elif template := TEMPLATE.match(line):
            prompts[section or "Prompts"].append(template["text"])
    try:
        lists = {"object_prompts": prompts["Object Prompts"], "live_prompts": prompts["Live Subject Prompts"]}
        return Known.model_validate({"classes": classes, **lists})
    except ValidationError as error:
        raise UserError(f"{file}: {first_problem(error)}; classes and twice 25 prompts are needed") from error
