"""Gemini by google-generativeai, the client that came before google-genai and is at its end of life."""

import os
from collections.abc import Sequence

from PIL import Image

from dsd.chat import ChatError
from dsd.chat.encoding import MIME, first_line, png
from dsd.chat.gemini import KEYS
from dsd.errors import UserError


class GeminiLegacy:
    """Needs an API key; Vertex projects are for `Gemini`."""

    def __init__(self, model: str, timeout: float = 60.0, base_url: str | None = None) -> None:
        try:
            import google.generativeai as genai
        except ImportError as error:
            raise UserError("vlm=gemini_legacy needs the package google-generativeai; or use vlm=gemini") from error
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        if key is None:
            raise UserError(f"vlm=gemini_legacy needs {KEYS[0]} in the environment; or use vlm=none")
        self.model, self.timeout = model, timeout
        genai.configure(api_key=key, transport="rest", client_options={"api_endpoint": base_url} if base_url else None)
        self.client = genai.GenerativeModel(model)

    def ask(self, text: str, images: Sequence[Image.Image] = ()) -> str:
        parts = [{"mime_type": MIME, "data": png(image)} for image in images]
        try:
            answer = self.client.generate_content([text, *parts], request_options={"timeout": self.timeout})
            blocked = answer.prompt_feedback.block_reason
            text = "" if blocked or not answer.candidates else answer.text.strip()
        except Exception as error:  # the client's, or its HTTP client's; ValueError where the answer was cut off
            ours = isinstance(error, ValueError | OSError)
            if not ours and type(error).__module__.split(".")[0] not in ("google", "requests"):
                raise
            raise ChatError(first_line(error)) from error
        if not text:
            raise ChatError(f"no answer ({getattr(blocked, 'name', '') or 'empty'})")
        return str(text)
