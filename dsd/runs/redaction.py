"""Keep secrets out of everything that is written or printed."""

import logging
import os
import re
from typing import Any
from urllib.parse import quote, unquote

REDACTED = "<redacted>"
_NAMES = "api_?key|access_?key|token|secret|password|passwd|authorization"
SECRET_KEY = re.compile(rf"(^|_)({_NAMES})$", re.IGNORECASE)
ENVIRONMENT = re.compile(r"(_KEY|APIKEY|TOKEN|SECRET|PASSWORD)$")
SHORTEST = 6  # characters of a secret that is replaced wherever it stands
_URL = re.compile(r"\w[\w+.-]*://([^/\s'\"]*)@")  # https://user:password@host
_QUERY = re.compile(r"[?&;](?:api_?)?(?:key|token|secret|password|sig|signature)=([^&\s'\"]+)", re.IGNORECASE)
_known: set[str] = set()  # secrets that this command was given
IN_TEXT = (
    (re.compile(r"\b(Bearer\s+)[\w.~+/-]{8,}=*"), rf"\1{REDACTED}"),
    (re.compile(r"(\w[\w+.-]*://)[^/\s'\"]*@"), rf"\1{REDACTED}@"),
    (re.compile(r"([?&;](?:api_?)?(?:key|token|secret|password|sig|signature)=)[^&\s'\"]+", re.I), rf"\1{REDACTED}"),
    (
        re.compile(rf"((?:^|[\s.+_,{{'\"])(?:{_NAMES})['\"]?[=:]\s*['\"]?)(?!null\b)[^\s,}}&'\"]+", re.I),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"\b(?:sk-[\w-]{16,}|hf_\w{16,}|AIza[\w-]{30,})"), REDACTED),  # OpenAI's, Hugging Face's, Google's keys
)


def learn(config: Any, key: str = "") -> None:
    """Remember the secrets of a config or of the command line: a provider may repeat them anywhere in an error."""
    if isinstance(config, dict):
        for name, value in config.items():
            learn(value, str(name))
    elif isinstance(config, list):
        for value in config:
            learn(value, key)
    elif isinstance(config, str):
        found = [config] if SECRET_KEY.search(key) else [*_QUERY.findall(config)]
        found += [part for pair in _URL.findall(config) for part in (pair, *pair.split(":", 1)[1:])]
        _known.update(value for value in found if value and value != REDACTED)


def forget() -> None:
    """Forget the secrets of an earlier command in this process."""
    _known.clear()


def redact(text: str) -> str:
    """Replace credentials in URLs, keys of known form, learnt secrets, and values of secret environment variables."""
    secrets = _known | {value for name, value in os.environ.items() if ENVIRONMENT.search(name)}
    forms = {form for value in secrets for form in (value, quote(value, safe=""), unquote(value))}
    for value in sorted((form for form in forms if len(form) >= SHORTEST), key=len, reverse=True):
        text = text.replace(value, REDACTED)
    for pattern, replacement in IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def redact_config(config: Any, key: str = "") -> Any:
    """Redact a config of plain values: whole values by their key (`api_key`), and credentials within texts."""
    if isinstance(config, dict):
        return {k: redact_config(v, str(k)) for k, v in config.items()}
    if isinstance(config, list):
        return [redact_config(v, key) for v in config]
    if config and SECRET_KEY.search(key):
        return REDACTED
    return redact(config) if isinstance(config, str) else config


class Redacting(logging.Filter):
    """Redacts every message that passes."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        return True
