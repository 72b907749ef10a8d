"""Jobs about held-out subjects, whose truth is known; and the example references of this repository.

`python -m dsd.toybox.jobs examples` writes a few references, each with a prompt.
"""

import json
import sys
from pathlib import Path

import numpy as np
from torchvision.transforms.functional import to_pil_image

from dsd.errors import UserError
from dsd.pipeline.jobs import Job, JobList
from dsd.toybox import grammar
from dsd.toybox.draw import render
from dsd.toybox.world import CONTEXT, SUBJECT, sample_contexts, sample_subjects, words


def held_out_jobs(
    num_subjects: int, contexts_per_subject: int, seed: int, relation: str = "same", described: bool = False
) -> JobList:
    """Make jobs. Each subject is drawn once, as reference; its prompts ask for another scene, or for another light.

    relation="relight" asks for the reference's own picture in another light, by naming the light alone or, where
    `described`, by a caption of the whole picture. The truth then holds the picture's context too.
    """
    if relation not in ("same", "relight"):
        raise UserError(f"jobs.relation={relation} is unknown; choose same or relight")
    if relation == "relight" and contexts_per_subject >= len(CONTEXT["light"]):
        raise UserError(
            f"jobs.contexts_per_subject={contexts_per_subject}: this world has {len(CONTEXT['light'])} lights, at most "
            f"{len(CONTEXT['light']) - 1} others can be asked for"
        )
    jobs = []
    for number in range(num_subjects):
        rng = np.random.default_rng((seed, number))
        subject = sample_subjects(rng, 1, "held_out")
        contexts = (other_lights if relation == "relight" else other_scenes)(rng, contexts_per_subject)
        reference = to_pil_image(render(subject, contexts[:1])[0])
        for i, context in enumerate(contexts[1:]):
            truth, prompt = words(subject[0], SUBJECT), grammar.panel(rng, subject[0], context)
            if relation == "relight":
                truth |= words(context, CONTEXT)
                asked = grammar.relight(str(rng.choice(grammar.lights(truth["light"]))))
                prompt = prompt if described else asked
            jobs.append(Job(f"subject-{number:04d}-{i}", reference, prompt, truth=json.dumps(truth)))
    return JobList(jobs, [])  # they follow from the settings


def other_scenes(rng: np.random.Generator, num: int) -> np.ndarray:
    """Sample a context and `num` more in other scenes, (1 + num, C)."""
    scene, contexts = list(CONTEXT).index("scene"), sample_contexts(rng, 1 + num)
    while (contexts[1:, scene] == contexts[0, scene]).any():
        contexts[1:] = sample_contexts(rng, num)
    return contexts


def other_lights(rng: np.random.Generator, num: int) -> np.ndarray:
    """Sample a context and repeat it in `num` other lights, (1 + num, C); every light is as likely as any other."""
    contexts = np.repeat(sample_contexts(rng, 1), 1 + num, axis=0)
    contexts[:, list(CONTEXT).index("light")] = rng.permutation(len(CONTEXT["light"]))[: 1 + num]
    return contexts


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
