"""Gemini by google-generativeai, the older client. It is at its end of life; `dsd.chat.gemini` replaces it."""

import os
import threading
from typing import Any, cast

from dsd.chat import Question, Reply
from dsd.chat.calls import checked, within
from dsd.chat.encoding import MIME, png
from dsd.chat.gemini import KEYS
from dsd.chat.replies import gemini_reply
from dsd.errors import UserError


class GeminiLegacy:
    """Google's older client. It needs an API key; only `Gemini` knows Vertex projects."""

    def __init__(self, model: str, timeout: float = 60.0, base_url: str | None = None) -> None:
        try:
            import google.generativeai as genai
            from google.generativeai.client import get_default_generative_client
        except ImportError as error:
            raise UserError("vlm=gemini_legacy needs the package google-generativeai; or use vlm=gemini") from error
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        if key is None:
            raise UserError(f"vlm=gemini_legacy needs {KEYS[0]} in the environment")
        self.model, self.timeout = checked(model, timeout)
        genai.configure(api_key=key, transport="rest", client_options={"api_endpoint": base_url} if base_url else None)
        self.client, self.heard = genai.GenerativeModel(model), threading.local()
        # The client has no public way to its HTTP session (google-generativeai 0.8): a redirect would take the key
        # to another host, and the body is read by our schema, not by the client's.
        transport: Any = get_default_generative_client().transport
        session = transport._session
        session.max_redirects = 0
        session.hooks["response"].append(self._hear)

    def ask(self, question: Question) -> Reply:
        """Make one call, without retries."""
        text, form = question.text, cast(Any, None)
        if question.answer is not None:
            form = {"response_mime_type": "application/json"}
            text += f"\nAnswer with JSON of this schema: {question.answer.model_json_schema()}"
        parts: list[Any] = [{"mime_type": MIME, "data": png(image)} for image in question.images]
        once: Any = {"timeout": self.timeout, "retry": None}

        def call() -> bytes:
            self.heard.body = None
            try:
                self.client.generate_content([text, *parts], generation_config=form, request_options=once)
            except Exception:
                if self.heard.body is None:
                    raise  # otherwise the client could not read the body; our schema says why
            return self.heard.body or b""

        return gemini_reply(within(self.timeout, call), question)

    def _hear(self, response: Any, *_: object, **__: object) -> None:
        """Keep the body of an answer for the thread that asked."""
        if response.status_code == 200:
            self.heard.body = response.content
