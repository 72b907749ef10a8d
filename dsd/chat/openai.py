"""Any endpoint that speaks OpenAI's chat protocol: OpenAI itself, vLLM, SGLang, Ollama and others."""

import os
from typing import Any, cast

from dsd.chat import Question, Reply
from dsd.chat.calls import checked, within
from dsd.chat.encoding import PNG, checked_format, data_url
from dsd.chat.replies import openai_reply
from dsd.errors import UserError

KEY = "OPENAI_API_KEY"
UNSUPPORTED = ("minLength", "maxLength")  # by OpenAI's strict mode; our own check of the answer has them


class OpenAI:
    """OpenAI's client. `base_url` is the address of another server, which may need no key."""

    def __init__(
        self, model: str, timeout: float = 60.0, base_url: str | None = None, picture_format: str = PNG
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise UserError("vlm=openai needs the package openai: pip install openai") from error
        key = os.environ.get(KEY)
        if not key and base_url is None:
            raise UserError(f"vlm=openai needs {KEY} in the environment; for a server of your own choose vlm=server")
        self.model, self.timeout = checked(model, timeout)
        self.picture_format, self.omit = checked_format(picture_format), cast(Any, openai.omit)
        # OpenAI's newer models refuse max_tokens, and Ollama ignores max_completion_tokens (ollama/ollama#7125)
        self.cap = "max_completion_tokens" if base_url is None else "max_tokens"
        web = openai.DefaultHttpxClient(
            follow_redirects=False,  # a redirect could take the key to another host
            limits=type(openai.DEFAULT_CONNECTION_LIMITS)(),  # none: vlm.limits.concurrency is the limit
        )
        self.client = openai.OpenAI(
            api_key=key or "none", base_url=base_url, timeout=self.timeout, max_retries=0, http_client=web
        )

    def ask(self, question: Question) -> Reply:
        """Make one call, without retries."""
        content: list[Any] = [{"type": "text", "text": question.text}]
        urls = [data_url(image, self.picture_format) for image in question.images]
        content += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        messages: Any = [{"role": "user", "content": content}]
        cap: dict[str, Any] = {self.cap: question.max_tokens}
        form: Any = self.omit
        if question.answer is not None:
            schema = question.answer.model_json_schema()
            strict = {"name": schema["title"], "schema": closed(schema), "strict": True}
            form = {"type": "json_schema", "json_schema": strict}

        sampling: dict[str, Any] = question.sampling.given()

        def call() -> bytes:
            create = self.client.chat.completions.with_raw_response.create
            answer = create(model=self.model, messages=messages, response_format=form, **cap, **sampling)
            return bytes(answer.content)

        return openai_reply(within(self.timeout, call), question)


def closed(schema: Any) -> Any:
    """Copy a JSON schema as strict structured output needs it: no other keys in objects, nothing unsupported."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: closed(value) for key, value in schema.items() if key not in UNSUPPORTED}
    return {**copy, "additionalProperties": False} if schema.get("type") == "object" else copy
