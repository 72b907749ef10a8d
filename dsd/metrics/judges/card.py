"""A judge card: everything that a rating depends on. Two numbers are comparable where their cards have one id.

The default is configs/card/local.yaml. Change a copy of it, or single values (`card.repeats=3`): the id follows.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from dsd.chat import Sampling
from dsd.errors import UserError
from dsd.io.inputs import first_problem


class Part(BaseModel):
    """Strict: a misspelt key of a card must not pass in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Rubric(Part):
    """One question about a picture. `{prompt}` in the wording stands for the picture's prompt."""

    wording: Annotated[str, Field(min_length=1)]
    shows: Literal["references", "picture"]  # the references and then the picture, or the picture alone
    most: Annotated[int, Field(ge=1, le=100)]  # scores are whole numbers from 0 to this
    divided: bool  # report score / most, from 0 to 1


class Card(Part):
    """The judge. `answered_as` is the name that answers give the model, where it is another one than `model`."""

    model: Annotated[str, Field(min_length=1)]
    revision: str  # of the weights; "" where the provider has none
    answered_as: str = ""
    picture_size: Annotated[int, Field(ge=28, le=4096)]  # pixels of the longer side; larger pictures are made smaller
    picture_format: Literal["png"]
    answer_format: Literal["json"]  # {"reason": ..., "score": ...}, the reason first
    temperature: Annotated[float, Field(ge=0)] | None  # null: the provider's own
    top_p: Annotated[float, Field(gt=0, le=1)] | None
    seed: int | None  # of the first repeat; the next has the next seed
    max_tokens: Annotated[int, Field(ge=16)]
    repeats: Annotated[int, Field(ge=1, le=100)]  # how often each question is asked
    rubrics: Annotated[dict[str, Rubric], Field(min_length=1)]

    @model_validator(mode="after")
    def check_repeats(self) -> "Card":
        """Repeats of a judge that always says the same are no repeats, and need seeds to be told apart."""
        if self.repeats > 1 and (self.seed is None or self.temperature == 0):
            raise ValueError(f"repeats={self.repeats} needs a seed, and a temperature above 0")
        return self

    @property
    def id(self) -> str:
        """Name the card by its content: 12 hex digits."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def sampling(self, repeat: int) -> Sampling:
        """The sampler of a repeat, counted from 0."""
        return Sampling(self.temperature, self.top_p, None if self.seed is None else self.seed + repeat)


def read_card(content: Any) -> Card:
    """Check the content of a card. UserError names the key that is wrong."""
    if not isinstance(content, Mapping):
        raise UserError("card: no judge card; choose one of configs/card/, such as card=local")
    try:
        return Card.model_validate(dict(content))
    except ValidationError as error:
        raise UserError(f"card.{first_problem(error)}") from error


@cache
def form_of(most: int) -> type[BaseModel]:
    """The answer to a rubric: a reason, then a whole score from 0 to `most`."""
    score = Annotated[int, Field(ge=0, le=most)]
    return create_model("Rating", reason=(str, ...), score=(score, ...))
