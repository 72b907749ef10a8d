"""Where grid prompts come from."""

from typing import Protocol

from dsd.records import Prompt


class PromptSource(Protocol):
    """Gives the prompt of any position, the same one whenever it is asked: a function of (seed, index)."""

    def __call__(self, index: int) -> Prompt: ...
