"""Tell whether a model that an answer names is the one that was asked for.

Providers answer an alias by its dated snapshot ("gpt-4o" by "gpt-4o-2024-08-06"), and route retired names to other
models (gemini-2.5-flash to gemini-3.5-flash-lite from 2026-12-01, https://ai.google.dev/gemini-api/docs/deprecations).
"""

import re

_VERSION = re.compile(r"([-@:_](latest|v?\d[\d.-]*))?")  # what may follow an alias; a word such as "lite" may not


def is_named(asked: str, answered: str) -> bool:
    """Tell whether `answered` is `asked` or a version of it. An answer that names no model is not doubted."""
    asked, answered = (name.lower().rpartition("models/")[2] for name in (asked, answered))
    stem = re.sub(r"[-:]latest$", "", asked)
    return not answered or (answered.startswith(stem) and bool(_VERSION.fullmatch(answered[len(stem) :])))
