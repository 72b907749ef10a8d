"""Control pairs: pictures drawn by code, judged before anything else, to notice a judge that has changed.

`dsd-evaluate mode=control` writes a card's answers to them. A later evaluation with `control=FILE` asks again, past the
cache, and stops where the same card answers otherwise: the model was replaced, or is served in another way.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from dsd.chat import ChatError, Question
from dsd.chat.naming import is_named
from dsd.chat.service import Service
from dsd.errors import UserError
from dsd.io.inputs import first_problem, read_text
from dsd.metrics.judges.card import Card, form_of

SIZE = 128  # pixels
SLACK = 0.25  # of the scale: one point of four may differ, since servers add numbers in varying order
RED, BLUE, GREEN, YELLOW = (200, 40, 40), (40, 70, 200), (40, 150, 70), (235, 200, 50)
WHITE, SAND, SKY = (245, 245, 245), (225, 205, 165), (170, 205, 235)


@dataclass(frozen=True)
class Pair:
    """A reference and a picture: a figure with a stripe before a plain background."""

    name: str
    reference: Image.Image
    picture: Image.Image
    prompt: str


def figure(
    colour: tuple[int, int, int], stripe: tuple[int, int, int], background: tuple[int, int, int],
    centre: tuple[int, int] = (64, 64), square: bool = False,
) -> Image.Image:  # fmt: skip
    """Draw a disc or a square with a stripe. By integers alone, so that it has the same pixels everywhere, always."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    down, right = rows - centre[1], columns - centre[0]
    inside = (abs(down) <= 30) & (abs(right) <= 30) if square else down**2 + right**2 <= 34**2
    pixels = np.empty((SIZE, SIZE, 3), np.uint8)
    pixels[:] = background
    pixels[inside] = colour
    pixels[inside & (abs(down) <= 8)] = stripe
    return Image.fromarray(pixels)


def control_pairs() -> list[Pair]:
    """Draw the pairs: the same subject moved, before another background, copied; and four other subjects."""
    subject = figure(RED, YELLOW, WHITE)
    sand = "a red disc with a yellow stripe on sand"
    return [
        Pair("moved", subject, figure(RED, YELLOW, SAND, (44, 80)), sand),
        Pair("background", subject, figure(RED, YELLOW, SKY), "a red disc with a yellow stripe in the sky"),
        Pair("copied", subject, subject, sand),
        Pair("colour", subject, figure(BLUE, YELLOW, SAND, (44, 80)), sand),
        Pair("stripe", subject, figure(RED, GREEN, SAND, (44, 80)), sand),
        Pair("shape", subject, figure(RED, YELLOW, SAND, (44, 80), square=True), sand),
        Pair("all", subject, figure(GREEN, BLUE, SKY, (80, 44), square=True), sand),
    ]


class Control(BaseModel):
    """The answers of a card, as a file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    card: str  # id
    model: str  # that the answers name
    scores: dict[str, int]  # by "rubric of pair"


def ask_control(card: Card, service: Service, rubrics: Iterable[str]) -> Control:
    """Ask the question of every rubric about every control pair.

    Answers of earlier days are not used, since they cannot show that the judge has changed.
    UserError where a question has no answer, or another model answers.
    """
    asked = {f"{name} of {pair.name}": question_about(pair, card, name) for name in rubrics for pair in control_pairs()}
    with tempfile.TemporaryDirectory(prefix="dsd-control-") as folder:
        today = Service(service.chat, Path(folder) / "answers.sqlite", service.limits)
        scores = {}
        for name, answer in zip(asked, today.ask_all(list(asked.values())), strict=True):
            if isinstance(answer, ChatError):
                raise UserError(f"control pairs: {name}: no answer ({answer}); nothing was judged")
            scores[name] = int(json.loads(answer)["score"])
        model = today.answered_by(next(iter(asked.values())))
        service.ledger.update(today.ledger)
    refuse_other(card, model)
    return Control(card=card.id, model=model, scores=scores)


def refuse_other(card: Card, model: str) -> None:
    """UserError where a model answered that is not the card's."""
    if not is_named(card.answered_as or card.model, model):
        raise UserError(
            f"vlm.chat.model={card.model}: {model} answered, so this is not the judge of card {card.id}; if it is "
            f"the same model by another name, give card.answered_as={model}"
        )


def question_about(pair: Pair, card: Card, rubric: str) -> Question:
    """Ask a rubric about a control pair, as about any picture."""
    about = card.rubrics[rubric]
    images = [pair.picture] if about.shows == "picture" else [pair.reference, pair.picture]
    text = about.wording.replace("{prompt}", pair.prompt)
    return Question(text, images, form_of(about.most), card.max_tokens, card.sampling(0))


def read_control(path: str | Path) -> Control:
    """Read a file of mode=control. UserError where it is none."""
    try:
        return Control.model_validate_json(read_text(path, "control"))
    except ValidationError as error:
        raise UserError(f"control={path}: {first_problem(error)}; write it by dsd-evaluate mode=control") from error


def refuse_changed(path: str | Path, card: Card, service: Service, rubrics: Iterable[str]) -> None:
    """Ask about the control pairs and compare. UserError where an answer differs by more than SLACK of its scale."""
    stored = read_control(path)
    if stored.card != card.id:
        raise UserError(f"control={path}: answers of judge card {stored.card}, but card= is {card.id}")
    now = ask_control(card, service, rubrics).scores
    then = {name: score for name, score in stored.scores.items() if name.split(" of ")[0] in {*rubrics}}
    found = differences(then, now, card)
    if found:
        shown = "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
        raise UserError(f"control={path}: the judge has changed since ({shown}); its ratings would not be comparable")


def differences(then: Mapping[str, int], now: Mapping[str, int], card: Card) -> list[str]:
    """Name the answers that differ by more than SLACK, or that only one side has."""
    if then.keys() != now.keys():
        return [f"{name}: asked on one side alone" for name in sorted(then.keys() ^ now.keys())]
    most = {name: card.rubrics[name.split(" of ")[0]].most for name in then}
    return [f"{n}: {then[n]} then, {now[n]} now" for n in then if abs(then[n] - now[n]) > SLACK * most[n]]
