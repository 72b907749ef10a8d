"""Gemini by google-genai: with GEMINI_API_KEY (or GOOGLE_API_KEY), or a Vertex project in GOOGLE_CLOUD_PROJECT."""

import os
from collections.abc import Sequence
from typing import Any

from google import genai
from google.genai import errors, types
from PIL import Image

from dsd.chat import ChatError
from dsd.chat.encoding import MIME, first_line, png
from dsd.errors import UserError

KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
PROJECT = "GOOGLE_CLOUD_PROJECT"


def has_credentials() -> bool:
    return any(os.environ.get(name) for name in (*KEYS, PROJECT))


class Gemini:
    """One client, which retries busy and failing servers by itself."""

    def __init__(self, model: str, timeout: float = 60.0, attempts: int = 3, base_url: str | None = None) -> None:
        self.model = model
        options = types.HttpOptions(
            base_url=base_url,
            timeout=int(timeout * 1000),
            retry_options=types.HttpRetryOptions(attempts=attempts, initial_delay=0.5),
        )
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

    def ask(self, text: str, images: Sequence[Image.Image] = ()) -> str:
        parts: list[Any] = [types.Part.from_bytes(data=png(image), mime_type=MIME) for image in images]
        try:
            answer = self.client.models.generate_content(
                model=self.model, contents=[types.Part.from_text(text=text), *parts]
            )
        except (errors.APIError, OSError, ValueError) as error:
            raise ChatError(first_line(error)) from error
        except Exception as error:  # the HTTP client's own errors, whichever client it is
            if not type(error).__module__.startswith(("httpx", "httpcore", "google", "tenacity")):
                raise
            raise ChatError(first_line(error)) from error
        blocked = answer.prompt_feedback and answer.prompt_feedback.block_reason
        if blocked or not (answer.text or "").strip():
            reason = blocked or (answer.candidates[0].finish_reason if answer.candidates else None)
            raise ChatError(f"no answer ({getattr(reason, 'name', reason) or 'empty'})")
        return str(answer.text).strip()
