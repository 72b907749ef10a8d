"""Ask a vision-language model a question with pictures, whoever provides it: configs/vlm/*.yaml.

A provider is a class with one method. It reads its secrets from the environment and keeps them in its client. What
every provider needs (retries, limits, a cache of answers) is in `dsd.chat.service`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from pydantic import BaseModel


@dataclass(frozen=True)
class Question:
    """A text, and pictures after it: providers can reuse the beginning that many questions share."""

    text: str
    images: Sequence[Image.Image] = ()
    answer: type[BaseModel] | None = None  # the JSON that the answer must be; None for text


@dataclass(frozen=True)
class Reply:
    """An answer, and the tokens that it took."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


class ChatError(Exception):
    """A question has no answer. The message is the provider's reason, in one line."""

    def __init__(self, reason: str, transient: bool = False, refusal: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient  # asking again may help
        self.refusal = refusal  # the model would not answer; never read this as "no"


class Chat(Protocol):
    """A provider. `model` names what answers, for the cache and for records."""

    model: str

    def ask(self, question: Question) -> Reply:
        """Make one call. Raise ChatError where there is no answer."""
        ...
