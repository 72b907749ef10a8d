"""The folders in which the benchmarks' own scripts look for a method's pictures.

- `samples`: `src_image/{collection}/{i}_{j}.jpg`, `tgt_image/...` and `text/...txt`, of
  yuangpeng/dreambench_plus@df0b960, `generate_images.py`; its scores by CLIP and DINO take any collections, so it
  serves DreamBench as well. A job `{collection}-{i}` is prompt i of a collection; its first picture (j = 0) is the one
  that is judged.
- `tasks`: `{task_type}/{key}.png`, of Ryann-Ran/Scone@25c2e08, `eval/s2i/sconeeval/test_score.py`, for OmniContext and
  SconeEval. VectorSpaceLab/OmniGen2@63a3b7b puts the same below `fullset/`.
"""

import unicodedata
from pathlib import Path

from dsd.errors import UserError
from dsd.pipeline.jobs import PICTURES

SAMPLES, TASKS = "samples", "tasks"
LAYOUTS = {"dreambench_plus": SAMPLES, "dreambench": SAMPLES, "omnicontext": TASKS, "sconeeval": TASKS}  # by benchmark
SOURCES, TARGETS, TEXTS = "src_image", "tgt_image", "text"


def sample_of(job: str) -> tuple[str, int]:
    """Read a job's name as collection and prompt index. UserError where it is none."""
    collection, _, index = job.rpartition("-")
    if not collection or not index.isdecimal():
        raise UserError(f"job {job}: no name of a collection and a prompt, such as object_07_mug-3")
    return collection, int(index)


def task_of(job: str, category: str) -> tuple[str, str]:
    """Read a job's name as task type and key. UserError where it is none."""
    if not category or not job.startswith(f"{category}-"):
        raise UserError(f"job {job}: its name does not begin with its task type ({category or 'none'})")
    return category, job.removeprefix(f"{category}-")


def plain_name(path: str) -> str:
    """Make names of files comparable: composed accents, whatever a file system did with them."""
    return unicodedata.normalize("NFC", path)


def pictures_below(folder: Path) -> dict[str, Path]:
    """Find all pictures below a folder by their path without ending."""
    found = (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in PICTURES and file.is_file())
    return {plain_name(file.relative_to(folder).with_suffix("").as_posix()): file for file in found}


def is_samples(folder: Path) -> bool:
    """Tell whether a folder has the layout of DreamBench++'s samples."""
    return (folder / TARGETS).is_dir()


def read_samples(folder: Path) -> dict[str, Path]:
    """Find the judged picture of every job by the job's name."""
    found = {}
    for name, file in pictures_below(folder / TARGETS).items():
        collection, _, place = name.rpartition("/")
        index, _, repeat = place.partition("_")
        if collection and index.isdecimal() and repeat == "0":
            found[f"{collection}-{int(index)}"] = file
    return found


def names_of(job: str, category: str) -> list[str]:
    """The paths, without ending, at which other tools may have put a job's picture."""
    names = [job, job.rsplit(".", 1)[0]] if Path(job).suffix.lower() in PICTURES else [job]
    if category and job.startswith(f"{category}-"):
        task = "/".join(task_of(job, category))
        names += [task, f"fullset/{task}"]
    return list(map(plain_name, names))
