"""Ratings on disk: what a judge answered, word by word. Tables are remade from them years later without the judge."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from dsd.errors import UserError
from dsd.io.files import atomic, remove_all_stale, write_json
from dsd.io.inputs import first_problem, read_json
from dsd.io.records import features
from dsd.metrics.judges.card import Card, form_of, read_card
from dsd.runs.shards import read_shard

CARD = "card.json"
STATES = ("answered", "refused", "failed")


@dataclass(frozen=True)
class Rating:
    """A judge's answer to one question. A refusal or a failure is for good; nothing is asked twice."""

    key: str  # of the question: card, rubric, repeat, prompt, pixels
    card: str  # id
    rubric: str
    repeat: int
    state: str  # one of STATES
    raw: str  # the answer as it came; the reason of a refusal or a failure
    model: str  # that the answer names, else the one that was asked

    @property
    def said(self) -> tuple[int, str]:
        """The score and its reason. Only of an answer."""
        found = json.loads(self.raw)
        return int(found["score"]), str(found["reason"])


_form = TypeAdapter(Rating)


class Ratings:
    """The ratings of one card in a folder: card.json, and Parquet files that are whole or absent. One writer."""

    def __init__(self, folder: str | Path, card: Card) -> None:
        """Open the ratings of `card`; those of other cards lie beside them. UserError where they are damaged."""
        self.card, self.folder = card, Path(folder) / card.id
        if (self.folder / CARD).is_file():
            stored_card(Path(folder), card.id)
        self.by_key: dict[str, Rating] = {}
        self.files = sorted(self.folder.glob("ratings-*.parquet"))
        for file in self.files:
            self.by_key |= {rating.key: rating for rating in checked(file, card)}

    def add(self, ratings: Sequence[Rating]) -> None:
        """Write ratings as one more file."""
        if not ratings:
            return
        if not self.files:
            remove_all_stale(self.folder)
            write_json(self.folder / CARD, self.card.model_dump(mode="json"))
        file = self.folder / f"ratings-{len(self.files):05d}.parquet"
        table = pa.Table.from_pylist([vars(one) for one in ratings], schema=features(Rating).arrow_schema)
        with atomic(file) as temporary:
            pq.write_table(table, temporary, write_page_checksum=True)
        self.files.append(file)
        self.by_key |= {one.key: one for one in ratings}


def stored_card(root: Path, card_id: str) -> Card:
    """Read the card that lies beside its ratings. UserError where it is not there or was edited afterwards."""
    file = root / card_id / CARD
    if not file.is_file():
        raise UserError(f"{root}: no ratings of judge card {card_id}")
    card = read_card(read_json(file))
    if card.id != card_id:
        raise UserError(
            f"{file}: edited after its ratings, which are of judge card {card_id} (this is {card.id}); restore the file"
        )
    return card


def checked(file: Path, card: Card) -> Iterator[Rating]:
    """Read the ratings of a file. UserError names the first row that is none, or of another card."""
    for number, row in enumerate(read_shard(file)):
        try:
            rating = _form.validate_python(row)
            wrong = problem(rating, card)
        except ValidationError as error:
            wrong = first_problem(error)
        if wrong:
            raise UserError(
                f"{file}: row {number} is no rating of this judge ({wrong}); restore the file, or delete it"
            )
        yield rating


def problem(rating: Rating, card: Card) -> str:
    """Why a row is no rating of the card; "" if it is one."""
    if rating.card != card.id:
        return f"card {rating.card}, not {card.id}"
    if rating.rubric not in card.rubrics or rating.state not in STATES:
        return f"rubric {rating.rubric}, state {rating.state}"
    if rating.state != STATES[0]:
        return ""
    try:
        form_of(card.rubrics[rating.rubric].most).model_validate_json(rating.raw)
    except ValidationError as error:
        return first_problem(error)
    return ""


class Rated(dict[str, float]):
    """The scores of a picture, with a judge's reasons. A name that could not be scored stands in `missing`."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, str] = {}  # by name
        self.missing: dict[str, str] = {}  # by name, why: refused, failed, unanswered (for now), without a face
        self.ratings: list[str] = []  # keys of the ratings that all this was made of, the repeats of a rubric together


def rated(card: Card, names: dict[str, str], keys: Iterable[str], found: dict[str, Rating]) -> Rated:
    """Make the scores of a picture from its ratings. `names` maps rubrics to names; a score is the mean of repeats."""
    row, said = Rated(), {rubric: list[Rating | None]() for rubric in names}
    row.ratings = list(keys)
    for rubric, start in zip(names, range(0, len(row.ratings), card.repeats), strict=True):
        said[rubric] = [found.get(key) for key in row.ratings[start : start + card.repeats]]
    for rubric, name in names.items():
        answers = [one.said for one in said[rubric] if one is not None and one.state == STATES[0]]
        if answers:
            most = card.rubrics[rubric].most if card.rubrics[rubric].divided else 1
            row[name] = math.fsum(score for score, _ in answers) / len(answers) / most
            row.reasons[name] = " / ".join(reason for _, reason in answers)
        else:
            states = [one.state if one is not None else "unanswered" for one in said[rubric]]
            row.missing[name] = states[0]
    return row
