"""Any endpoint that speaks OpenAI's chat protocol: OpenAI itself, vLLM, SGLang, Ollama and others."""

import os
from typing import Any

from dsd.chat import ChatError, Question, Reply
from dsd.chat.encoding import bare_json, data_url, first_line
from dsd.errors import UserError

KEY = "OPENAI_API_KEY"


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
        self.model, self.openai = model, openai
        self.client = openai.OpenAI(api_key=key or "none", base_url=base_url, timeout=timeout, max_retries=0)

    def ask(self, question: Question) -> Reply:
        """Make one call, without retries."""
        try:
            answer = self._complete(question)
            choice = answer.choices[0] if answer.choices else None
        except (self.openai.APIConnectionError, self.openai.RateLimitError, self.openai.InternalServerError) as error:
            raise ChatError(first_line(error), transient=True) from error
        except self.openai.OpenAIError as error:
            raise ChatError(first_line(error)) from error
        except (ValueError, AttributeError) as error:  # no JSON, or JSON of another form
            raise ChatError(f"not a chat completion ({first_line(error)})", transient=True) from error
        if choice is None or not (choice.message.content or "").strip():
            refused = choice is not None and bool(choice.message.refusal or choice.finish_reason == "content_filter")
            reason = (choice and (choice.message.refusal or choice.finish_reason)) or "empty"
            raise ChatError(f"no answer ({reason})", refusal=refused)
        used = answer.usage
        return Reply(
            bare_json(str(choice.message.content).strip()),
            used.prompt_tokens if used else 0,
            used.completion_tokens if used else 0,
        )

    def _complete(self, question: Question) -> Any:
        content: list[Any] = [{"type": "text", "text": question.text}]
        content += [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in question.images]
        form: Any = self.openai.omit
        if question.answer is not None:
            schema = question.answer.model_json_schema()
            form = {"type": "json_schema", "json_schema": {"name": schema["title"], "schema": schema}}
        messages: Any = [{"role": "user", "content": content}]
        return self.client.chat.completions.create(model=self.model, messages=messages, response_format=form)
