"""Ask a vision-language model a question with pictures, whoever provides it: configs/vlm/*.yaml.

A provider is a class with one method. It reads its secrets from the environment and keeps them in its client. What
every provider needs (retries, limits, a cache of answers) is in `dsd.chat.service`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image
from pydantic import BaseModel

from dsd.runs.redaction import redact

LONGEST_REASON = 300  # characters
Tokens = tuple[int | None, int | None]  # input and output; None where the provider does not say


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. None leaves it to the provider: some models refuse the setting."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None

    def given(self) -> dict[str, Any]:
        """The settings that are not None, by the name that every provider's client knows them by."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Question:
    """A text, and pictures after it: providers can reuse the beginning that many questions share."""

    text: str
    images: Sequence[Image.Image] = ()
    answer: type[BaseModel] | None = None  # the JSON that the answer must be; None for text
    max_tokens: int = 1024  # of the answer; a longer one is cut off, which is a failed call
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Reply:
    """An answer, the tokens that it took (None where the provider does not say), and the model that it names."""

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    model: str = ""  # "" where the provider does not say


class ChatError(Exception):
    """A question has no answer. The message is the provider's reason, in one line and without secrets."""

    def __init__(
        self,
        reason: str,
        transient: bool = False,
        refusal: bool = False,
        malformed: bool = False,
        final: bool = False,
        tokens: Tokens = (0, 0),
        no_model: bool = False,
    ) -> None:
        text = reason.encode("utf-8", "replace").decode()  # lone surrogates cannot be written
        super().__init__(" ".join(redact(text).split())[:LONGEST_REASON])
        self.transient = transient  # asking again in a while may help
        self.refusal = refusal  # the model would not answer; never read this as "no"
        self.malformed = malformed  # something was answered, but it cannot be read or is not whole
        self.final = final  # the provider cannot answer this very question
        self.tokens = tokens  # what the failed call took
        self.no_model = no_model  # the provider does not have, or no longer has, the model that was asked for

    @property
    def kind(self) -> str:
        """Name the class of the error: refused and failed are for good; an unanswered question is asked again."""
        return "refused" if self.refusal else "failed" if self.final else "unanswered"


class Chat(Protocol):
    """A provider. `model` names what answers, for the cache and for records.

    A provider that sends pictures in a lossy format has `picture_format`, which the cache keeps apart.
    """

    model: str

    def ask(self, question: Question) -> Reply:
        """Make one call. Raise ChatError where there is no answer."""
        ...
