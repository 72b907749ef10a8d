"""Keep secrets out of everything that is written or printed."""

import logging
import os
import re
from typing import Any

REDACTED = "<redacted>"
SECRET_KEY = re.compile(r"(^|_)(api_?key|token|secret|password)$", re.IGNORECASE)
ENVIRONMENT = re.compile(r"(API_?KEY|TOKEN|SECRET|PASSWORD)$")
IN_TEXT = (
    (re.compile(r"(\w[\w+.-]*://)[^/\s@'\"]+@"), rf"\1{REDACTED}@"),  # https://user:password@host
    (re.compile(r"([?&;](?:api_?)?(?:key|token|secret|password|sig|signature)=)[^&\s'\"]+", re.I), rf"\1{REDACTED}"),
    (re.compile(r"((?:^|[\s.+_,{])(?:api_?key|token|secret|password)[=:]\s*)[^\s,}&'\"]+", re.I), rf"\1{REDACTED}"),
    (re.compile(r"\b(Bearer\s+)[\w.~+/-]{8,}=*"), rf"\1{REDACTED}"),
    (re.compile(r"\b(?:sk-[\w-]{16,}|hf_\w{16,}|AIza[\w-]{30,})"), REDACTED),  # OpenAI's, Hugging Face's, Google's keys
)


def redact(text: str) -> str:
    """Replace credentials in URLs, keys of known form, and the values of secret environment variables."""
    for name, value in os.environ.items():
        if ENVIRONMENT.search(name) and len(value) >= 6:
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
