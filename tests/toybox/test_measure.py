"""The toybox's truth: what it scores, and what it refuses because it lies outside its world."""

import json

import numpy as np
import pytest
from worlds import PixelRecogniser, pictures

from dsd.errors import UserError
from dsd.metrics.measure import Drawing, mean_scores, refuse_unsuited
from dsd.toybox import grammar
from dsd.toybox.measure import SCALE, ToyboxMeasure, chance, prompt_objection, score, truth_objection
from dsd.toybox.world import SUBJECT, sample_contexts, sample_subjects, words

MEASURE = ToyboxMeasure(PixelRecogniser())
TRUTH = json.dumps(words(np.zeros(len(SUBJECT), int), SUBJECT))


@pytest.mark.parametrize("named", ["porcelain", "robot", "kitchen"])
def test_a_foreign_prompt_is_refused_by_its_words(named) -> None:
    assert named in MEASURE.objection("a porcelain robot in a kitchen", "")
    with pytest.raises(UserError, match=rf"job 3: measure toybox cannot score it: .*{named}"):
        refuse_unsuited("toybox", MEASURE, "job 3", "a porcelain robot in a kitchen", "")


@pytest.mark.parametrize("prompt", ["a small porcelain robot in the city at night", "a red critter with a sword", " "])
def test_known_words_do_not_excuse_foreign_ones(prompt) -> None:
    assert prompt_objection(prompt)
    assert MEASURE.objection(prompt, TRUTH)


def test_every_prompt_of_the_grammar_is_taken() -> None:
    rng = np.random.default_rng(0)
    for subject, context in zip(sample_subjects(rng, 500), sample_contexts(rng, 500), strict=True):
        assert not prompt_objection(grammar.panel(rng, subject, context))
        assert not prompt_objection(grammar.context(rng, context, " "))
    for prompt in ("beach", "at the beach", "show this critter big, on the left, dunes", "A Red Round Critter, beach."):
        assert not prompt_objection(prompt)


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        ("{belly", "not a JSON object"),
        ("3", "not a JSON object"),
        ("[]", "not a JSON object"),
        ('{"belly": "red"}', "truth lacks body"),
        (TRUTH.replace('"top hat"', '"crown"'), "not of the toybox's world: headgear='crown'"),
    ],
)
def test_a_foreign_truth_is_refused(truth, said) -> None:
    assert said in truth_objection(truth)
    assert said in MEASURE.objection("beach", truth)


def test_truths_of_this_world_and_unknown_ones_are_taken() -> None:
    assert truth_objection("") == truth_objection(TRUTH) == ""


def test_strangers_score_what_chance_says() -> None:
    """4,000 random subjects against random truths: CP and its parts come out at their expected values."""
    rng = np.random.default_rng(0)
    rows, others = sample_subjects(rng, 4000), sample_subjects(rng, 4000)
    prompt = "a red round critter, big, on the left, meadow"
    seen = {"scene": "snow", "position": "left", "size": "big", "tilt": "upright", "light": "day"}
    scores = [score(words(other, SUBJECT) | seen, words(row, SUBJECT), prompt) for row, other in zip(rows, others)]
    for name, expected in chance().items():
        if name in scores[0] and name != "PF":
            assert np.mean([s[name] for s in scores]) == pytest.approx(expected, abs=0.02), name
    assert scores[0]["PF"] == pytest.approx(4 / 5)


def test_means_of_a_validation() -> None:
    """A copy of the reference: every detail kept, the context missed where it changed."""
    rng = np.random.default_rng(1)
    subjects, contexts, asked = sample_subjects(rng, 8), sample_contexts(rng, 8), sample_contexts(rng, 8)
    drawings = [
        Drawing(picture, picture, grammar.panel(rng, subject, context), json.dumps(words(subject, SUBJECT)))
        for picture, subject, context in zip(pictures(subjects, contexts), subjects, asked, strict=True)
    ]
    found = mean_scores(SCALE, ToyboxMeasure(PixelRecogniser())(drawings))
    assert tuple(found) == SCALE.names
    assert found["CP"] == 1
    assert found["CPxPF"] == found["PF"] < 1


def test_a_reference_is_read_once() -> None:
    class Counting(PixelRecogniser):
        seen = 0

        def read(self, images):
            self.seen += len(images)
            return super().read(images)

    rng = np.random.default_rng(2)
    (picture,) = pictures(sample_subjects(rng, 1), sample_contexts(rng, 1))
    recogniser = Counting()
    measure = ToyboxMeasure(recogniser)
    for _ in range(3):
        measure([Drawing(picture, picture, "beach")] * 2)
    assert recogniser.seen == 7, "six pictures and one reference"
