"""The shipped judges on the world's own drawings."""

import json
from pathlib import Path

import numpy as np
import pytest
from torchvision.transforms.functional import to_pil_image

from dsd.io.files import resolve
from dsd.toybox import grammar, judge, recogniser
from dsd.toybox.draw import render
from dsd.toybox.jobs import held_out_jobs
from dsd.toybox.panels import draw_panels
from dsd.toybox.prompts import Oracle, ToyboxPrompts
from dsd.toybox.world import (
    SUBJECT,
    held_out,
    sample_contexts,
    sample_subjects,
    subject_ids,
    subject_numbers,
    subject_rows,
    words,
)


@pytest.fixture(scope="module")
def clip() -> judge.ToyboxJudge:
    return judge.ToyboxJudge(device="cpu")


def draw(subjects: np.ndarray, contexts: np.ndarray) -> list:
    return [to_pil_image((panel * 255).round().byte()) for panel in render(subjects, contexts)]


def test_both_read_held_out_subjects_as_well_as_they_say(clip) -> None:
    panels = draw_panels(np.random.default_rng(5), 500, "held_out")
    for part, found in (
        ("judge", judge.accuracy(clip, panels)),
        ("recogniser", recogniser.accuracy(recogniser.Recogniser(device="cpu"), panels)),
    ):
        said = json.loads((Path(resolve("pkg://dsd.toybox/weights")) / part / "accuracy.json").read_text())
        assert said["vae"]["mean"] >= 0.97
        for name, value in said["drawn"].items():
            assert found[name] >= value - 0.02, (part, name)


def test_a_difference_is_seen_and_named(clip) -> None:
    rng = np.random.default_rng(6)
    for column, (name, values) in enumerate(SUBJECT.items()):
        subjects = np.repeat(sample_subjects(rng, 1), 2, axis=0)
        contexts = sample_contexts(rng, 2)
        same, changed = draw(subjects, contexts), subjects.copy()
        changed[1, column] = (changed[1, column] + 1) % len(values)
        other = draw(changed, contexts)
        verdict, opposed = clip.judge([same[0], other[0]], [same[1], other[1]])
        assert verdict.same
        assert not opposed.same
        assert opposed.reason.startswith(name.replace("_", " "))
        assert verdict.scores["similarity"] > opposed.scores["similarity"]
        assert judge.parse_description(verdict.target_description) == words(subjects[1], SUBJECT)


def test_texts_tell_the_context(clip) -> None:
    rng = np.random.default_rng(8)
    subjects, contexts = sample_subjects(rng, 4), sample_contexts(rng, 4)
    pictures = draw(subjects, contexts)
    for text, subject, context in zip(clip.caption(pictures), subjects, contexts, strict=True):
        assert grammar.read(text) == grammar.read(grammar.panel(rng, subject, context))
    assert clip.judge([], []) == clip.caption([]) == clip.instruct([], []) == []


def test_prompts_are_a_function_of_position_and_held_out_subjects_stay_out() -> None:
    source = ToyboxPrompts("2x2", "same", seed=4)
    assert source(7) == ToyboxPrompts("2x2", "same", seed=4)(7)
    assert source(7) != source(8)
    read = recogniser.Recogniser(device="cpu").read
    for grid in Oracle()([source(i) for i in range(4)], range(4)):
        panels = read([grid.crop((x, y, x + 64, y + 64)) for y in (0, 64) for x in (0, 64)])
        drawn = {tuple(panel[name] for name in SUBJECT) for panel in panels}
        assert len(drawn) == 1
        row = [values.index(value) for values, value in zip(SUBJECT.values(), *drawn, strict=True)]
        assert not held_out(subject_numbers(np.array([row])))[0]
    for job in held_out_jobs(5, 2, seed=1):
        row = [SUBJECT[name].index(value) for name, value in json.loads(job.truth).items()]
        assert held_out(subject_numbers(np.array([row])))[0]


def test_pairs_of_held_out_subjects_are_noticed(clip) -> None:
    rng = np.random.default_rng(9)
    from dsd.io.records import Verdict

    for split, expected in (("train", False), ("held_out", True)):
        said = judge.describe(words(subject_rows(rng.choice(subject_ids(split), 1))[0], SUBJECT))
        fields = dict.fromkeys(Verdict.__dataclass_fields__, "") | {
            "first_description": said,
            "second_description": said,
        }
        assert judge.shows_held_out_subject(Verdict(**fields)) is expected
