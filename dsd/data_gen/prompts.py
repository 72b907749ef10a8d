"""Where grid prompts come from: the protocol of a source, and prompts of a file."""

import hashlib
import json
from typing import Annotated, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from dsd.errors import UserError
from dsd.io.inputs import read_jsonl
from dsd.io.records import LAYOUTS, RELATIONS, Prompt

EXAMPLE = '{"prompt": "...", "layout": "2x2", "panel_captions": ["...", "...", "...", "..."]}'


class NoPrompt(Exception):
    """A position has no prompt. The message is the reason, in one line.

    `unanswered`: for now only, such as by a provider that is down; the position is to be asked for again.
    """

    def __init__(self, reason: str, unanswered: bool = False) -> None:
        super().__init__(reason)
        self.unanswered = unanswered


class PromptSource(Protocol):
    """Gives the prompt of any position, always the same one: a function of (seed, index).

    Raises NoPrompt where there is none; the grid is then a failure with that reason. Several threads may call it.
    A source that reads files has `content`, which names what it has read. A source that asks a server has
    `asked_at_once`, the number of threads that are to call it.
    """

    def __call__(self, index: int) -> Prompt: ...


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the prompt is empty")
    return text


class PromptRow(BaseModel):
    """A line of a file of prompts."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: Annotated[str, AfterValidator(_not_blank)]  # of the whole grid
    layout: str
    panel_captions: list[str]  # one a panel
    subject: str = ""
    relation: str = "same"
    source: str = ""

    @model_validator(mode="after")
    def check(self) -> "PromptRow":
        """Refuse an unknown layout or relation, and captions that are not one a panel."""
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout {self.layout!r} is unknown; choose one of {', '.join(LAYOUTS)}")
        rows, columns = LAYOUTS[self.layout]
        if len(self.panel_captions) != rows * columns:
            raise ValueError(f"panel_captions must be a list of {rows * columns}, one for each panel")
        if self.relation not in RELATIONS:
            raise ValueError(f"relation {self.relation!r} is unknown; choose one of {', '.join(RELATIONS)}")
        return self


class JsonlPrompts:
    """Prompts of a file, one JSON object a line. Position i has line i modulo their number.

    Fields: prompt (of the whole grid), layout, panel_captions (one a panel); optional: subject, relation ("same").
    UserError names the line that is no prompt.
    """

    def __init__(self, path: str) -> None:
        lines = read_jsonl(path, PromptRow, "prompts.path", EXAMPLE)
        self.prompts = [{**row.model_dump(), "source": row.source or f"{path}:{number}"} for number, row in lines]
        if not self.prompts:
            raise UserError(f"prompts.path={path}: no prompts in it")
        self.content = content_of([{**row, "source": ""} for row in self.prompts])

    def __call__(self, index: int) -> Prompt:
        return Prompt(index=index, **self.prompts[index % len(self.prompts)])


def content_of(values: object) -> str:
    """Name what a source of prompts has read, by 16 hex digits."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
