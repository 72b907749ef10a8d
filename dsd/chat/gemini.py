"""Gemini by google-genai: with GEMINI_API_KEY (or GOOGLE_API_KEY), or a Vertex project in GOOGLE_CLOUD_PROJECT."""

import os
from typing import Any

from dsd.chat import ChatError, Question, Reply
from dsd.chat.calls import checked, within
from dsd.chat.encoding import PNG, checked_format, encoded, mime
from dsd.chat.replies import gemini_reply
from dsd.errors import UserError

KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
PROJECT = "GOOGLE_CLOUD_PROJECT"


def has_credentials() -> bool:
    """Tell whether the environment holds a key or a Vertex project."""
    return any(os.environ.get(name) for name in (*KEYS, PROJECT))


class Gemini:
    """Google's current client. `base_url` is for proxies."""

    def __init__(
        self, model: str, timeout: float = 60.0, base_url: str | None = None, picture_format: str = PNG
    ) -> None:
        from google import genai
        from google.genai import types

        self.model, self.timeout = checked(model, timeout)
        self.types, self.picture_format = types, checked_format(picture_format)
        options = types.HttpOptions(
            base_url=base_url,
            timeout=max(1, int(self.timeout * 1000)),
            client_args={"follow_redirects": False},  # a redirect would take the key to another host
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
                "or choose vlm=openai, vlm=local or vlm=null"
            )

    def ask(self, question: Question) -> Reply:
        """Make one call, without retries."""
        types, form, sent = self.types, dict[str, Any](), mime(self.picture_format)
        if question.answer is not None:
            schema = question.answer.model_json_schema()
            form = {"response_mime_type": "application/json", "response_json_schema": schema}
        encodings = [encoded(image, self.picture_format) for image in question.images]
        pictures = [types.Part.from_bytes(data=data, mime_type=sent) for data in encodings]
        contents: list[Any] = [types.Part.from_text(text=question.text), *pictures]
        config = types.GenerateContentConfig(
            should_return_http_response=True, max_output_tokens=question.max_tokens, **form, **question.sampling.given()
        )

        def call() -> bytes:
            answer = self.client.models.generate_content(model=self.model, contents=contents, config=config)
            body = (answer.sdk_http_response and answer.sdk_http_response.body) or ""
            if "\ufffd" in body:  # the client puts it for what it cannot decode
                raise ChatError("not an answer of Gemini (not UTF-8)", malformed=True)
            return body.encode("utf-8", "surrogatepass")

        return gemini_reply(within(self.timeout, call), question)
