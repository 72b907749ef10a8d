"""Jobs about held-out subjects, whose truth is known; and the example references of this repository.

`python -m dsd.toybox.jobs examples` writes a few references, each with a prompt.
"""

import json
import sys
from pathlib import Path

import numpy as np
from torchvision.transforms.functional import to_pil_image

from dsd.pipeline.jobs import Job, JobList
from dsd.toybox import grammar
from dsd.toybox.draw import render
from dsd.toybox.world import CONTEXT, SUBJECT, sample_contexts, sample_subjects, words


def held_out_jobs(num_subjects: int, contexts_per_subject: int, seed: int) -> JobList:
    """Make jobs. Each subject is drawn once, as reference, in another scene than its prompts ask for."""
    scene, jobs = list(CONTEXT).index("scene"), []
    for number in range(num_subjects):
        rng = np.random.default_rng((seed, number))
        subject = sample_subjects(rng, 1, "held_out")
        contexts = sample_contexts(rng, 1 + contexts_per_subject)
        while (contexts[1:, scene] == contexts[0, scene]).any():
            contexts[1:] = sample_contexts(rng, contexts_per_subject)
        reference = to_pil_image(render(subject, contexts[:1])[0])
        truth = json.dumps(words(subject[0], SUBJECT))
        for i, context in enumerate(contexts[1:]):
            prompt = grammar.panel(rng, subject[0], context)
            jobs.append(Job(f"subject-{number:04d}-{i}", reference, prompt, truth=truth))
    return JobList(jobs, [])  # they follow from the settings


def main(folder: str = "examples", *, num: int = 4, seed: int = 7) -> None:
    """Write `num` references with a prompt each."""
    Path(folder).mkdir(exist_ok=True)
    jobs = held_out_jobs(num, 1, seed).jobs
    for number, job in enumerate(jobs, 1):
        job.picture().save(Path(folder) / f"critter-{number}.png")
        (Path(folder) / f"critter-{number}.txt").write_text(job.prompt + "\n")
    print(f"{len(jobs)} references in {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
