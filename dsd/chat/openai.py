"""Any endpoint that speaks OpenAI's chat protocol: OpenAI itself, vLLM, SGLang, Ollama and others."""

import os
from typing import Any

from dsd.chat import Question, Reply
from dsd.chat.calls import checked, within
from dsd.chat.encoding import data_url
from dsd.chat.replies import openai_reply
from dsd.errors import UserError

KEY = "OPENAI_API_KEY"
UNSUPPORTED = ("minLength", "maxLength")  # by OpenAI's strict mode; our own check of the answer has them


class OpenAI:
    """OpenAI's client. `base_url` is the address of another server, which may need no key."""

    def __init__(self, model: str, timeout: float = 60.0, base_url: str | None = None) -> None:
        try:
            import openai
        except ImportError as error:
            raise UserError("vlm=openai needs the package openai: pip install openai") from error
        key = os.environ.get(KEY)
        if not key and base_url is None:
            raise UserError(f"vlm=openai needs {KEY} in the environment, or vlm.chat.base_url= of a server of your own")
        self.model, self.timeout = checked(model, timeout)
        self.omit: Any = openai.omit
        web = openai.DefaultHttpxClient(follow_redirects=False)  # a redirect could take the key to another host
        self.client = openai.OpenAI(
            api_key=key or "none", base_url=base_url, timeout=self.timeout, max_retries=0, http_client=web
        )

    def ask(self, question: Question) -> Reply:
        """Make one call, without retries."""
        content: list[Any] = [{"type": "text", "text": question.text}]
        content += [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in question.images]
        messages: Any = [{"role": "user", "content": content}]
        form: Any = self.omit
        if question.answer is not None:
            schema = question.answer.model_json_schema()
            strict = {"name": schema["title"], "schema": closed(schema), "strict": True}
            form = {"type": "json_schema", "json_schema": strict}

        sampling: dict[str, Any] = question.sampling.given()

        def call() -> bytes:
            create = self.client.chat.completions.with_raw_response.create
            return bytes(create(model=self.model, messages=messages, response_format=form, **sampling).content)

        return openai_reply(within(self.timeout, call), question)


def closed(schema: Any) -> Any:
    """Copy a JSON schema as strict structured output needs it: no other keys in objects, nothing unsupported."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: closed(value) for key, value in schema.items() if key not in UNSUPPORTED}
    return {**copy, "additionalProperties": False} if schema.get("type") == "object" else copy
