"""Where grid prompts come from: the protocol of a source, and prompts of a file."""

import json
from typing import Protocol

from dsd.errors import UserError
from dsd.io.inputs import read_text
from dsd.io.records import RELATIONS, Prompt, layout_shape

EXAMPLE = '{"prompt": "...", "layout": "2x2", "panel_captions": ["...", "...", "...", "..."]}'


class NoPrompt(Exception):
    """A position has no prompt. The message is the reason, in one line."""


class PromptSource(Protocol):
    """Gives the prompt of any position, always the same one: a function of (seed, index).

    Raises NoPrompt where there is none; the grid is then a failure with that reason. Several threads may call it.
    """

    def __call__(self, index: int) -> Prompt: ...


class JsonlPrompts:
    """Prompts of a file, one JSON object a line. Position i has line i modulo their number.

    Fields: prompt (of the whole grid), layout, panel_captions (one a panel); optional: subject, relation ("same").
    UserError names the line that is no prompt.
    """

    def __init__(self, path: str) -> None:
        lines = read_text(path, "prompts.path").splitlines()
        self.prompts = [self._read(f"{path}:{n}", line) for n, line in enumerate(lines, 1) if line.strip()]
        if not self.prompts:
            raise UserError(f"prompts.path={path}: no prompts in it")

    def __call__(self, index: int) -> Prompt:
        return Prompt(index=index, **self.prompts[index % len(self.prompts)])

    @staticmethod
    def _read(place: str, line: str) -> dict:
        known = {"subject": "", "relation": "same", "source": place}
        try:
            row = known | json.loads(line)
            Prompt(index=0, **row)
        except (ValueError, TypeError) as error:
            raise UserError(f"{place}: not a prompt ({error}); each line is {EXAMPLE}") from error
        rows, columns = layout_shape(row["layout"])
        if not str(row["prompt"]).strip():
            raise UserError(f"{place}: the prompt is empty")
        if not isinstance(row["panel_captions"], list) or len(row["panel_captions"]) != rows * columns:
            raise UserError(f"{place}: panel_captions must be a list of {rows * columns}, one for each panel")
        if row["relation"] not in RELATIONS:
            raise UserError(f"{place}: relation {row['relation']!r} is unknown; choose one of {', '.join(RELATIONS)}")
        return row
