"""Gemini by google-genai: with GEMINI_API_KEY (or GOOGLE_API_KEY), or a Vertex project in GOOGLE_CLOUD_PROJECT."""

import os
from typing import Any

from google import genai
from google.genai import errors, types

from dsd.chat import ChatError, Question, Reply
from dsd.chat.encoding import MIME, bare_json, first_line, png
from dsd.errors import UserError

KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
PROJECT = "GOOGLE_CLOUD_PROJECT"
BUSY = (408, 429, 500, 502, 503, 504)


def has_credentials() -> bool:
    return any(os.environ.get(name) for name in (*KEYS, PROJECT))


class Gemini:
    """`base_url` is for proxies."""

    def __init__(self, model: str, timeout: float = 60.0, base_url: str | None = None) -> None:
        self.model = model
        options = types.HttpOptions(base_url=base_url, timeout=int(timeout * 1000))
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        if key is not None:
            self.client = genai.Client(vertexai=False, api_key=key, http_options=options)
        elif project := os.environ.get(PROJECT):
            location = os.environ.get("GOOGLE_CLOUD_LOCATION", "global")
            self.client = genai.Client(vertexai=True, project=project, location=location, http_options=options)
        else:
            raise UserError(
                f"vlm=gemini needs {KEYS[0]} (or a Vertex project in {PROJECT}) in the environment; "
                "or choose vlm=openai, vlm=local or vlm=none"
            )

    def ask(self, question: Question) -> Reply:
        parts: list[Any] = [types.Part.from_bytes(data=png(image), mime_type=MIME) for image in question.images]
        form: dict[str, Any] = {}
        if question.answer is not None:
            form = {
                "response_mime_type": "application/json",
                "response_json_schema": question.answer.model_json_schema(),
            }
        try:
            answer = self.client.models.generate_content(
                model=self.model, contents=[types.Part.from_text(text=question.text), *parts],
                config=types.GenerateContentConfig(**form),
            )  # fmt: skip
        except errors.APIError as error:
            raise ChatError(first_line(error), transient=error.code in BUSY) from error
        except Exception as error:  # the HTTP client's own errors, whichever client it is
            if not type(error).__module__.startswith(("httpx", "httpcore", "google", "pydantic", "json")):
                raise
            raise ChatError(first_line(error), transient=True) from error
        blocked = answer.prompt_feedback and answer.prompt_feedback.block_reason
        ended = answer.candidates[0].finish_reason if answer.candidates else None
        if blocked or not (answer.text or "").strip():
            reason = getattr(blocked or ended, "name", None) or "empty"
            raise ChatError(f"no answer ({reason})", refusal=reason not in ("empty", "MAX_TOKENS", "OTHER"))
        used = answer.usage_metadata
        return Reply(
            bare_json(str(answer.text).strip()),
            (used and used.prompt_token_count) or 0,
            (used and used.candidates_token_count) or 0,
        )
