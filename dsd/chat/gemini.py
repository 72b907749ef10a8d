"""Gemini by google-genai: with GEMINI_API_KEY (or GOOGLE_API_KEY), or a Vertex project in GOOGLE_CLOUD_PROJECT."""

import os
from typing import Any

from dsd.chat import ChatError, Question, Reply
from dsd.chat.encoding import MIME, bare_json, first_line, png
from dsd.errors import UserError

KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
PROJECT = "GOOGLE_CLOUD_PROJECT"
BUSY = (408, 429, 500, 502, 503, 504)  # HTTP codes after which asking again may help
HTTP_CLIENTS = ("httpx", "httpcore", "google", "pydantic", "json")  # modules whose exceptions are failed calls


def has_credentials() -> bool:
    """Tell whether the environment holds a key or a Vertex project."""
    return any(os.environ.get(name) for name in (*KEYS, PROJECT))


class Gemini:
    """Google's current client. `base_url` is for proxies."""

    def __init__(self, model: str, timeout: float = 60.0, base_url: str | None = None) -> None:
        from google import genai
        from google.genai import errors, types

        self.model, self.types, self.errors = model, types, errors
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
                "or choose vlm=openai, vlm=local or vlm=null"
            )

    def ask(self, question: Question) -> Reply:
        """Make one call, without retries."""
        try:
            answer = self._generate(question)
        except self.errors.APIError as error:
            raise ChatError(first_line(error), transient=error.code in BUSY) from error
        except Exception as error:  # of the HTTP client, whichever one is installed
            if not type(error).__module__.startswith(HTTP_CLIENTS):
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

    def _generate(self, question: Question) -> Any:
        types, form = self.types, dict[str, Any]()
        if question.answer is not None:
            schema = question.answer.model_json_schema()
            form = {"response_mime_type": "application/json", "response_json_schema": schema}
        pictures = [types.Part.from_bytes(data=png(image), mime_type=MIME) for image in question.images]
        return self.client.models.generate_content(
            model=self.model, contents=[types.Part.from_text(text=question.text), *pictures],
            config=types.GenerateContentConfig(**form),
        )  # fmt: skip
