"""Find the data folder of a benchmark, and list its jobs; several benchmarks share this."""

from collections.abc import Sequence
from pathlib import Path

from dsd.benchmarks.selection import chosen
from dsd.errors import UserError
from dsd.pipeline.jobs import Job, JobList, content_of


def data_folder(path: str, inner: str, names: Sequence[str], what: str) -> Path:
    """Find the folder that holds `names`: `path`, or `path`/`inner` of the cloned repository. UserError otherwise."""
    for folder in (Path(path), Path(path) / inner):
        if all((folder / name).exists() for name in names):
            return folder
    lacking = next(name for name in names if not (Path(path) / name).exists())
    raise UserError(f"jobs.path={path}: not the data of {what}: no {lacking} there")


def job_list(jobs: Sequence[Job], categories: Sequence[str] | None, limit: int | None, path: str) -> JobList:
    """Choose jobs; UserError where two share a name or where a reference of one is not there."""
    positions = chosen([job.category for job in jobs], categories, limit)
    seen: set[str] = set()
    for job in jobs:
        if job.name in seen:
            raise UserError(f"jobs.path={path}: two jobs are named {job.name}; their results would be mixed up")
        seen.add(job.name)
    kept = [jobs[i] for i in positions]
    for job in kept:
        for file in (job.reference, *job.others):
            if isinstance(file, Path) and not file.is_file():
                raise UserError(f"jobs.path={path}: reference of {job.name}: {file}: no such file")
    return JobList(kept, list(map(content_of, kept)))
