"""Pictures in another light: jobs, judge and measure know what may change and what may not."""

import json

import numpy as np
import pytest
from PIL import Image
from worlds import PixelRecogniser, pictures

from dsd.errors import UserError
from dsd.metrics.measure import Drawing, mean_scores
from dsd.toybox import grammar
from dsd.toybox.jobs import held_out_jobs
from dsd.toybox.relight import RelightGrids, RelightJudge, RelightMeasure, psnr, true_picture
from dsd.toybox.world import ATTRIBUTES, CONTEXT, SUBJECT, sample_contexts, sample_subjects, words

LIGHT = list(CONTEXT).index("light")


@pytest.fixture(scope="module")
def judge() -> RelightJudge:
    return RelightJudge(device="cpu")


def relit(num: int, seed: int) -> tuple[list[Image.Image], list[Image.Image], np.ndarray, np.ndarray]:
    """Draw `num` pictures in two lights each; also return their subjects and first contexts."""
    rng = np.random.default_rng(seed)
    subjects, contexts = sample_subjects(rng, num), sample_contexts(rng, num)
    others = contexts.copy()
    others[:, LIGHT] = (others[:, LIGHT] + 1) % len(CONTEXT["light"])
    return pictures(subjects, contexts), pictures(subjects, others), subjects, contexts


def test_jobs_ask_for_the_same_picture_in_another_light() -> None:
    jobs = held_out_jobs(6, 2, seed=3, relation="relight").jobs
    assert len(jobs) == 12
    for job in jobs:
        truth = json.loads(job.truth)
        assert set(truth) == set(ATTRIBUTES)
        assert grammar.read(job.prompt) == {"light": truth["light"]}  # silence says nothing of the tilt
        befores = [true_picture(truth | {"light": light}) for light in CONTEXT["light"] if light != truth["light"]]
        assert job.picture() in befores
    described = held_out_jobs(6, 2, seed=3, relation="relight", described=True).jobs
    assert [job.truth for job in described] == [job.truth for job in jobs]
    for job in described:
        said, truth = grammar.read(job.prompt), json.loads(job.truth)
        assert said.items() <= truth.items()
        assert {"colour", "scene", "light"} <= set(said)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"relation": "season"}, "choose same or relight"), ({"relation": "relight"}, "at most 2 others")],
)
def test_jobs_that_this_world_cannot_ask_for(wrong, said) -> None:
    with pytest.raises(UserError, match=said):
        held_out_jobs(2, 3, seed=0, **wrong)


def test_the_judge_keeps_pictures_in_two_lights(judge) -> None:
    firsts, seconds, _, _ = relit(40, seed=0)
    found = judge.judge(firsts, seconds)
    assert np.mean([one.same for one in found]) > 0.85
    texts = judge.instruct(firsts, seconds)
    assert all(text.startswith(grammar.RELIT) for text in texts)
    right = [
        grammar.read(t) == {"light": r["light"]} for t, r in zip(texts, PixelRecogniser().read(seconds), strict=True)
    ]
    assert np.mean(right) > 0.95


def test_the_judge_rejects_an_unchanged_light_and_a_moved_subject(judge) -> None:
    firsts, _seconds, subjects, contexts = relit(40, seed=1)
    unchanged = judge.judge(firsts, firsts)
    assert not any(one.same for one in unchanged)
    assert "in both" in unchanged[0].reason
    position = list(CONTEXT).index("position")
    moved = contexts.copy()
    moved[:, [LIGHT, position]] = (moved[:, [LIGHT, position]] + 1) % 3
    opposed = judge.judge(firsts, pictures(subjects, moved))
    assert not any(one.same for one in opposed)
    assert "position" in opposed[0].reason


def test_a_copy_keeps_everything_and_the_true_picture_is_perfect() -> None:
    firsts, seconds, subjects, contexts = relit(8, seed=5)
    measure, light = RelightMeasure(PixelRecogniser()), CONTEXT["light"]
    truths = [words(s, SUBJECT) | words(c, CONTEXT) for s, c in zip(subjects, contexts, strict=True)]
    prompts = [grammar.relight(grammar.lights(light[(c[LIGHT] + 1) % len(light)])[0]) for c in contexts]

    def means(drawn: list[Image.Image]) -> dict[str, float]:
        rows = zip(drawn, firsts, prompts, truths, strict=True)
        drawings = [Drawing(drawn, first, prompt, json.dumps(truth)) for drawn, first, prompt, truth in rows]
        assert not any(measure.objection(drawing.prompt, drawing.truth) for drawing in drawings)
        return mean_scores(measure.scale, measure(drawings))

    copied, perfect = means(firsts), means(seconds)
    assert copied["CP"] == copied["CP_strict"] == 1
    assert copied["PF"] == 0
    assert perfect["CP"] == perfect["PF"] == perfect["CPxPF"] == 1
    assert perfect["PSNR"] > 25 > copied["PSNR"]  # the recogniser's line of pixels is no part of the world


def test_psnr_is_the_textbook_number() -> None:
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    assert psnr(Image.new("RGB", (8, 8), (110, 110, 110)), grey) == pytest.approx(20 * np.log10(255 / 10))


WHOLE = json.dumps({name: values[0] for name, values in ATTRIBUTES.items()})


@pytest.mark.parametrize(
    ("prompt", "truth", "said"),
    [
        ("the same picture, only the light changes: dawn", WHOLE, "dawn"),
        ("the same picture, only the light changes: night", "", "truth lacks belly"),
        (grammar.RELIT, WHOLE, "asks for no light"),
    ],
)
def test_what_cannot_be_scored_is_refused(prompt, truth, said) -> None:
    assert said in RelightMeasure(PixelRecogniser()).objection(prompt, truth)


def test_panels_go_together_where_the_light_alone_differs() -> None:
    firsts, seconds, _, _ = relit(4, seed=2)
    caption = "a red round critter, big, on the left, meadow"
    grids = RelightGrids(PixelRecogniser())
    both, same, other = grids(
        [[firsts[0], seconds[0]], [firsts[0], firsts[0]], [firsts[0], seconds[1]]], [[caption] * 2] * 3
    )
    assert both.same_subject == {(0, 1): True}
    assert same.same_subject == other.same_subject == {(0, 1): False}
    assert grids.scale.relation == "relight"
