"""Gemini by google-generativeai, the older client. It is at its end of life; `dsd.chat.gemini` replaces it."""

import os
from typing import Any, cast

from dsd.chat import ChatError, Question, Reply
from dsd.chat.encoding import MIME, bare_json, first_line, png
from dsd.chat.gemini import BUSY, KEYS
from dsd.errors import UserError


class GeminiLegacy:
    """Google's older client. It needs an API key; only `Gemini` knows Vertex projects."""

    def __init__(self, model: str, timeout: float = 60.0, base_url: str | None = None) -> None:
        try:
            import google.generativeai as genai
        except ImportError as error:
            raise UserError("vlm=gemini_legacy needs the package google-generativeai; or use vlm=gemini") from error
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        if key is None:
            raise UserError(f"vlm=gemini_legacy needs {KEYS[0]} in the environment")
        self.model, self.timeout = model, timeout
        genai.configure(api_key=key, transport="rest", client_options={"api_endpoint": base_url} if base_url else None)
        self.client = genai.GenerativeModel(model)

    def ask(self, question: Question) -> Reply:
        """Make one call, without retries."""
        try:
            answer = self._generate(question)
            blocked = answer.prompt_feedback.block_reason
            said = "" if blocked or not answer.candidates else answer.text.strip()
        except Exception as error:  # of the client or its HTTP client; ValueError where the answer was cut off
            expected = isinstance(error, ValueError | OSError)
            if not expected and type(error).__module__.split(".")[0] not in ("google", "requests"):
                raise
            raise ChatError(first_line(error), transient=getattr(error, "code", None) in (None, *BUSY)) from error
        if not said:
            raise ChatError(f"no answer ({getattr(blocked, 'name', '') or 'empty'})", refusal=bool(blocked))
        used = answer.usage_metadata
        return Reply(bare_json(said), used.prompt_token_count, used.candidates_token_count)

    def _generate(self, question: Question) -> Any:
        text, form = question.text, cast(Any, None)
        if question.answer is not None:
            form = {"response_mime_type": "application/json"}
            text += f"\nAnswer with JSON of this schema: {question.answer.model_json_schema()}"
        parts = [{"mime_type": MIME, "data": png(image)} for image in question.images]
        once: Any = {"timeout": self.timeout, "retry": None}
        return self.client.generate_content([text, *parts], generation_config=form, request_options=once)
