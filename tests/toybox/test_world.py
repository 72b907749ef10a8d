"""The world: enough subjects, some never shown, pictures and captions that say the same."""

import numpy as np
import pytest
import torch

from dsd.toybox import grammar
from dsd.toybox.draw import render
from dsd.toybox.samples import LAYOUTS, sample_grids
from dsd.toybox.world import (
    ATTRIBUTES,
    CONTEXT,
    NAMED,
    NUM_SUBJECTS,
    SUBJECT,
    UNNAMED,
    sample_contexts,
    sample_subjects,
    subject_ids,
    subject_numbers,
    subject_rows,
    words,
)


def test_a_tenth_of_enough_subjects_is_held_out() -> None:
    train, held_out = subject_ids("train"), subject_ids("held_out")
    assert NUM_SUBJECTS >= 25_000
    assert len(train) + len(held_out) == NUM_SUBJECTS
    assert not set(train) & set(held_out)
    assert 0.09 < len(held_out) / NUM_SUBJECTS < 0.11
    rows = subject_rows(held_out)
    for column, values in enumerate(SUBJECT.values()):  # every value about equally often
        counts = np.bincount(rows[:, column], minlength=len(values))
        assert counts.min() > 0.8 * counts.mean()


def test_numbers_and_rows_are_inverse() -> None:
    ids = np.arange(0, NUM_SUBJECTS, 97)
    assert np.array_equal(subject_numbers(subject_rows(ids)), ids)


def test_pictures_do_not_depend_on_their_batch() -> None:
    rng = np.random.default_rng(0)
    subjects, contexts = sample_subjects(rng, 6), sample_contexts(rng, 6)
    together = render(subjects, contexts)
    assert together.shape == (6, 3, 64, 64)
    assert together.min() >= 0
    assert together.max() <= 1
    assert torch.equal(together[2:3], render(subjects[2:3], contexts[2:3]))


@pytest.mark.parametrize("attribute", list(ATTRIBUTES))
def test_every_value_shows(attribute: str) -> None:
    column, values = list(ATTRIBUTES).index(attribute), ATTRIBUTES[attribute]
    rows = np.zeros((len(values), len(ATTRIBUTES)), int)
    rows[:, list(ATTRIBUTES).index("belly")] = 3
    rows[:, list(ATTRIBUTES).index("headgear_colour")] = 4
    rows[:, column] = np.arange(len(values))
    pictures = render(rows[:, : len(SUBJECT)], rows[:, len(SUBJECT) :])
    for i in range(len(values)):
        for j in range(i):
            assert (pictures[i] - pictures[j]).abs().amax(0).gt(0.1).sum() > 20, (values[i], values[j])


def test_a_caption_says_what_its_picture_shows() -> None:
    rng = np.random.default_rng(1)
    for subject, context in zip(sample_subjects(rng, 500), sample_contexts(rng, 500), strict=True):
        said = grammar.read(grammar.panel(rng, subject, context))
        truth = words(subject, SUBJECT) | words(context, CONTEXT)
        assert said == {name: truth[name] for name in (*NAMED, *CONTEXT)}


def test_prompts_never_name_what_only_a_picture_tells() -> None:
    rng = np.random.default_rng(2)
    secrets = {word for name in ("headgear", "eyes") for value in UNNAMED[name] for word in value.split()} | {"belly"}
    for layout in LAYOUTS:
        for relation in ("same", "different", "relight"):
            for prompt in sample_grids(rng, 50, layout, relation).prompts(rng):
                spoken = set(prompt.lower().replace(",", " ").replace(".", " ").replace(":", " ").split())
                assert not spoken & (secrets - {"two"}), prompt  # "two panels"


def test_there_are_several_wordings() -> None:
    rng = np.random.default_rng(3)
    subject, context = sample_subjects(rng, 1)[0], sample_contexts(rng, 1)[0]
    assert len({grammar.panel(rng, subject, context) for _ in range(50)}) > 10


def test_grids_keep_their_relation() -> None:
    rng = np.random.default_rng(4)
    same, different, relight = (sample_grids(rng, 20, "2x2", r) for r in ("same", "different", "relight"))
    assert (same.subjects == same.subjects[:, :1]).all()
    assert not (different.subjects == different.subjects[:, :1]).all()
    light = list(CONTEXT).index("light")
    assert (np.delete(relight.contexts, light, -1) == np.delete(relight.contexts[:, :1], light, -1)).all()
    assert all(len(set(row)) == 3 for row in relight.contexts[..., light])
    grid, panels = same.pixels()[0], render(same.subjects[0], same.contexts[0])
    assert torch.equal(grid, torch.cat([torch.cat([*panels[:2]], -1), torch.cat([*panels[2:]], -1)], -2))
