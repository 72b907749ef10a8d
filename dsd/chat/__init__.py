"""A question with pictures -> the answer's text, from whichever vision-language model there is: configs/vlm/*.yaml.

Providers are classes with one method; secrets come from the environment and stay in the clients.
"""

from collections.abc import Sequence
from typing import Protocol

from PIL import Image


class ChatError(Exception):
    """The model gave no answer: the provider's reason, in one line."""


class Chat(Protocol):
    """`model` names what answers, for caches and records."""

    model: str

    def ask(self, text: str, images: Sequence[Image.Image] = ()) -> str:
        """The answer. ChatError where there is none, after the client's own retries."""
        ...
