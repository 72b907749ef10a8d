"""Take the answer out of what a model said: without its thoughts, without Markdown fences and prose around JSON."""

import json
import re
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

MOST_STARTS = 50  # places at which JSON is looked for
_THOUGHT = re.compile(r"<(think|thinking|thought)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_UNOPENED = re.compile(r"^.*</(?:think|thinking|thought)>", re.DOTALL | re.IGNORECASE)  # the prompt opened it
_UNCLOSED = re.compile(r"<(?:think|thinking|thought)>.*$", re.DOTALL | re.IGNORECASE)  # cut off while it thought
_FENCE = re.compile(r"^\s*```[\w-]*[ \t]*\n?|\s*```\s*$")


def answer_in(text: str, form: type[BaseModel] | None) -> str:
    """Take the answer out of a text; for a form, the last JSON object that fits it, else the first one."""
    for thoughts in (_THOUGHT, _UNOPENED, _UNCLOSED):
        text = thoughts.sub("", text)
    bare = _FENCE.sub("", text).strip()
    if form is None or not problem(bare, form):
        return bare
    found = list(_objects(text))
    return next((item for item in reversed(found) if not problem(item, form)), found[0] if found else bare)


def problem(text: str, form: type[BaseModel] | None) -> str:
    """Say why a text does not read as a form; "" where it does."""
    if form is None:
        return ""
    try:
        form.model_validate_json(text)
    except (ValidationError, UnicodeError) as error:
        if not isinstance(error, ValidationError):
            return "JSON: not valid Unicode"
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}"
    return ""


def _objects(text: str) -> Iterator[str]:
    """Yield the JSON objects in a text, outermost ones."""
    decoder, start = json.JSONDecoder(), text.find("{")
    for _ in range(MOST_STARTS):
        if start < 0:
            return
        try:
            _, end = decoder.raw_decode(text, start)
            yield text[start:end]
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
