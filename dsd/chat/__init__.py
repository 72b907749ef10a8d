"""A question with pictures -> an answer, from whichever vision-language model there is: configs/vlm/*.yaml.

A provider is a class with one method; secrets come from the environment and stay in its client. What every provider
needs (retries, limits, a cache, a ledger) is in `dsd.chat.service`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from pydantic import BaseModel


@dataclass(frozen=True)
class Question:
    """What is asked. Pictures follow the text, so that providers can keep the beginning that all questions share."""

    text: str
    images: Sequence[Image.Image] = ()
    answer: type[BaseModel] | None = None  # the JSON that is wanted, None for text


@dataclass(frozen=True)
class Reply:
    """What was answered, and what it took."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


class ChatError(Exception):
    """There is no answer: the provider's reason, in one line."""

    def __init__(self, reason: str, transient: bool = False, refusal: bool = False) -> None:
        super().__init__(reason)
        self.transient = transient  # asking again may help
        self.refusal = refusal  # the model would not answer; never to be taken for "no"


class Chat(Protocol):
    """`model` names what answers, for caches and records."""

    model: str

    def ask(self, question: Question) -> Reply:
        """One call. ChatError where there is no answer."""
        ...
