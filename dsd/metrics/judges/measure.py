"""A vision-language model as a measure: rubrics of a judge card, each a question with pictures and a whole score.

CP and PF are DreamBench++'s questions in our own words (arXiv 2406.16855, section 3), with their de-biased variants of
Diffusion Self-Distillation (arXiv 2411.18616, section 4.2); COM and DIS are SconeEval's, in our own words too.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dsd.chat import ChatError, Question
from dsd.chat.encoding import digest
from dsd.chat.service import Service
from dsd.errors import UserError
from dsd.io.pictures import to_rgb
from dsd.metrics.judges.card import Card, form_of, read_card
from dsd.metrics.judges.control import refuse_changed, refuse_other
from dsd.metrics.judges.estimate import price_of
from dsd.metrics.judges.ratings import STATES, Rated, Rating, Ratings, rated
from dsd.metrics.measure import Drawing, Scale

log = logging.getLogger(__name__)
ROWS = 32  # ratings that are written at once
PRODUCT, FACTORS = "CPxPF", ("CP", "PF")


@dataclass(frozen=True)
class Asked:
    """A question with what its rating is stored under."""

    key: str
    rubric: str
    repeat: int
    question: Question


class VLMMeasure:
    """Scores pictures by the rubrics of a card. Ratings are kept in `folder`; only what is not there is asked."""

    grids = None

    def __init__(
        self,
        service: Service | None,
        card: Mapping[str, Any] | None,
        rubrics: Sequence[str],
        folder: str,
        prefix: str = "",
        swapped: bool = False,
        control: str | None = None,
    ) -> None:
        """`prefix` tells names of two judges apart. `swapped` shows a single reference and the picture the other way.

        `control` is a file of `dsd-evaluate mode=control`: the judge must answer as then before anything is asked.
        UserError where the card lacks a rubric or is of another model than the service asks.
        """
        if not card:
            raise UserError("measure=vlm needs a judge card: choose card=local")
        self.card, self.service, self.swapped, self.control = read_card(card), service, swapped, control
        if unknown := [name for name in rubrics if name not in self.card.rubrics]:
            known = ", ".join(self.card.rubrics)
            raise UserError(f"measure: rubric {unknown[0]} is not in the judge card; choose from {known}")
        if not rubrics or len({*rubrics}) < len(rubrics):
            raise UserError(f"measure: rubrics={list(rubrics)}: one or more names are needed, each once")
        if service is not None:
            refuse_other_judge(self.card, service)
        self.names = {name: f"{prefix}{name}" for name in rubrics}
        self.scale = scale_of(self.card, self.names, prefix)
        self.ratings = Ratings(folder, self.card)
        self.states, self.unanswered, self.fit = Counter[str](), list[str](), False

    def objection(self, prompt: str, truth: str) -> str:
        """Nothing: a judge can be asked about any picture and any prompt."""
        return ""

    def self_check(self) -> None:
        """Its agreement with people is measured apart, by `dsd-evaluate mode=agreement`."""
        return

    def plan(self, num_pictures: int) -> str:
        """Say how many questions an evaluation asks at most and what they may cost."""
        num, kept = num_pictures * len(self.names) * self.card.repeats, len(self.ratings.by_key)
        cost = price_of(num, self.card, list(self.names), self.service.limits if self.service else None)
        return (
            f"judge card {self.card.id} ({self.card.model}): at most {num:,} calls ({num_pictures:,} pictures x "
            f"{', '.join(self.names)} x {self.card.repeats}), {cost}; {kept:,} ratings are there, not asked again"
        )

    def missing(self) -> dict[str, int]:
        """Count the ratings so far by state, and the questions that have no answer for now."""
        return {state: self.states[state] for state in (*STATES, "unanswered")}

    def __call__(self, drawings: Sequence[Drawing]) -> list[Rated]:
        """Score every picture, in order. UserError where a budget is used up or another model answers."""
        asked = [self.questions(drawing) for drawing in drawings]
        self.ask([one for row in asked for one in row])
        return [self.rate([one.key for one in row]) for row in asked]

    def rate(self, keys: Sequence[str]) -> Rated:
        """Make the scores of a picture from the ratings that are there."""
        return rated(self.card, self.names, keys, self.ratings.by_key)

    def questions(self, drawing: Drawing) -> list[Asked]:
        """Make the questions about a picture, rubric by rubric, the repeats of each together."""
        references, picture = (drawing.reference, *drawing.others), drawing.picture
        if self.swapped and len(references) == 1:
            references, picture = (picture,), references[0]
        shown = [smaller(image, self.card.picture_size) for image in (*references, picture)]
        pixels, found = [digest(image) for image in (*references, picture)], []
        for name in self.names:
            rubric = self.card.rubrics[name]
            alone = rubric.shows == "picture"
            if alone and self.swapped:  # such a question has no order
                images, seen = [smaller(drawing.picture, self.card.picture_size)], [digest(drawing.picture)]
            else:
                images, seen = (shown[-1:], pixels[-1:]) if alone else (shown, pixels)
            text = rubric.wording.replace("{prompt}", drawing.prompt)
            for repeat in range(self.card.repeats):
                key = hashlib.sha256(json.dumps([self.card.id, name, repeat, text, seen]).encode()).hexdigest()[:32]
                sampling = self.card.sampling(repeat)
                question = Question(text, images, form_of(rubric.most), self.card.max_tokens, sampling)
                found.append(Asked(key, name, repeat, question))
        return found

    def ask(self, asked: Sequence[Asked]) -> None:
        """Ask what has no rating yet; ratings are written as they come."""
        known, todo = self.ratings.by_key, {one.key: one for one in asked}
        todo = {key: one for key, one in todo.items() if key not in known}
        if todo:
            self.refuse_unfit()
            assert self.service is not None
            answers = self.service.ask_all([one.question for one in todo.values()], f"judge {self.card.id}")
            self.keep(list(todo.values()), answers)
        self.states.update(known[one.key].state if one.key in known else "unanswered" for one in asked)

    def keep(self, asked: Sequence[Asked], answers: Any) -> None:
        """Write answers, some at a time, and what has come until then where the asking stops."""
        done: list[Rating] = []
        try:
            for one, answer in zip(asked, answers, strict=True):
                rating = self.rating(one, answer)
                done += [rating] if rating is not None else []
                if len(done) == ROWS:
                    self.ratings.add(done)
                    done = []
        finally:
            self.ratings.add(done)

    def rating(self, asked: Asked, answer: str | ChatError) -> Rating | None:
        """Make a rating of an answer; None where there is none for now. UserError where another model answered."""
        card = self.card
        if isinstance(answer, ChatError):
            state = "failed" if answer.malformed else answer.kind
            if state not in STATES:
                self.unanswered.append(str(answer))
                return None
            return Rating(asked.key, card.id, asked.rubric, asked.repeat, state, str(answer), card.model)
        assert self.service is not None
        model = self.service.answered_by(asked.question)
        refuse_other(card, model)
        return Rating(asked.key, card.id, asked.rubric, asked.repeat, STATES[0], answer, model)

    def refuse_unfit(self) -> None:
        """Before the first question: UserError without a service, or where the control pairs are answered otherwise."""
        if self.service is None:
            raise UserError("measure=vlm asks a vision-language model: choose vlm=gemini, vlm=openai or vlm=local")
        if not self.fit and self.control:
            refuse_changed(self.control, self.card, self.service, list(self.names))
        self.fit = True


def refuse_other_judge(card: Card, service: Service) -> None:
    """UserError where the service asks another model than the card names, or sends pictures in another format."""
    if service.model != card.model:
        raise UserError(
            f"card.model={card.model}, but vlm.chat.model={service.model}: one judge is needed; "
            f"give vlm.chat.model={card.model}, or 'card.model=${{vlm.chat.model}}'"
        )
    sent = getattr(service.chat, "picture_format", "png")
    if sent != card.picture_format:
        raise UserError(
            f"card.picture_format={card.picture_format}, but vlm.chat.picture_format={sent}: give the card's"
        )


def scale_of(card: Card, names: Mapping[str, str], prefix: str) -> Scale:
    """Describe the numbers of a judge. CP and PF have a product, and so have their de-biased variants."""
    products = {}
    for kind in ("", "debiased_"):
        factors = [f"{kind}{name}" for name in FACTORS]
        if all(factor in names for factor in factors):
            products[f"{prefix}{kind}{PRODUCT}"] = tuple(names[factor] for factor in factors)
    divided = [name for rubric, name in names.items() if card.rubrics[rubric].divided]
    whole = [f"{n} (0 to {card.rubrics[r].most})" for r, n in names.items() if not card.rubrics[r].divided]
    said = [f"{', '.join(divided)} (0 to 1)"] if divided else []
    return Scale(
        names=(*names.values(), *products),
        headline=next(iter(products), next(iter(names.values()))),
        explained=(
            f"{' and '.join([*said, *whole])}: scores of a vision-language model, {card.model} {card.revision} by "
            f"judge card {card.id}. Products are products of means. Refusals and failures are left out and counted."
        ).replace("  ", " "),
        unit="score",
        products=products,
        by_kind=tuple(name for rubric, name in names.items() if rubric.endswith("PF")),
        judge=card.id,
    )


def smaller(image: Image.Image, size: int) -> Image.Image:
    """Return the picture as RGB, at most `size` pixels wide and high."""
    image = to_rgb(image)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return image
