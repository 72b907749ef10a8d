"""Any endpoint that speaks OpenAI's chat protocol: OpenAI itself, vLLM, SGLang, Ollama and others."""

import os
from collections.abc import Sequence
from typing import Any

from PIL import Image

from dsd.chat import ChatError
from dsd.chat.encoding import data_url, first_line
from dsd.errors import UserError

KEY = "OPENAI_API_KEY"


class OpenAI:
    """`base_url` is that of a server of one's own, which may need no key."""

    def __init__(self, model: str, timeout: float = 60.0, max_retries: int = 2, base_url: str | None = None) -> None:
        try:
            import openai
        except ImportError as error:
            raise UserError("vlm=openai needs the package openai: pip install openai") from error
        key = os.environ.get(KEY)
        if not key and base_url is None:
            raise UserError(f"vlm=openai needs {KEY} in the environment, or vlm.base_url= of a server of your own")
        self.model, self.errors = model, (openai.OpenAIError,)
        self.client = openai.OpenAI(api_key=key or "none", base_url=base_url, timeout=timeout, max_retries=max_retries)

    def ask(self, text: str, images: Sequence[Image.Image] = ()) -> str:
        content: list[Any] = [{"type": "text", "text": text}]
        content += [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
        try:
            answer = self.client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": content}]
            )
        except (*self.errors, ValueError) as error:
            raise ChatError(first_line(error)) from error
        choice = answer.choices[0] if answer.choices else None
        if choice is None or not (choice.message.content or "").strip():
            raise ChatError(f"no answer ({(choice and (choice.message.refusal or choice.finish_reason)) or 'empty'})")
        return str(choice.message.content).strip()
