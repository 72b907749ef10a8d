"""Grid prompts that a language model writes from captions (paper, section 3.1)."""

import hashlib
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, create_model

from dsd.chat import ChatError, Question
from dsd.chat.service import Service
from dsd.data_gen.prompts import NoPrompt, content_of
from dsd.data_gen.templates import TAGS
from dsd.errors import UserError
from dsd.io.records import RELATIONS, Prompt, layout_shape

FILTER_TOKENS = 256  # most of an answer; the prompt's follows from max_words
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=3)]


class Subject(BaseModel):  # name and docstring are part of what the model reads and of the cache's keys
    """The filter's answer."""

    has_subject: bool  # one whose identity other pictures could keep
    reason: str


class LlmPrompts:
    """Prompts from captions: position i tries its own k captions, from number i * k on, until the filter accepts.

    So a prompt depends on its position alone, whichever process asks for it, and no answered question is asked again.
    `relation` says what the panels of a grid have in common: the subject ("same"), or all but the light ("relight").
    """

    def __init__(
        self,
        captions: list[str],
        service: Service | None,
        layout: str,
        filter: str | None,
        write: str,
        max_words: int,
        captions_per_grid: int = 3,
        relation: str = "same",
    ) -> None:
        if not isinstance(service, Service):
            raise UserError("prompts=llm needs a language model: choose vlm=gemini, openai, server or local")
        rows, columns = layout_shape(layout)
        for field in ("{caption}", "{tags}"):
            if field not in write:
                raise UserError(f"prompts.write has no {field} in it")
        self.captions, self.service, self.layout, self.num = captions, service, layout, captions_per_grid
        if relation not in RELATIONS:
            raise UserError(f"prompts.relation={relation}: choose from {', '.join(RELATIONS)}")
        self.filter, self.max_words, self.relation = filter, max_words, relation
        self.most_tokens = 512 + 4 * max_words  # the prompt twice over, in tokens, and the panels
        self.asked_at_once = service.limits.concurrency
        self.write = write.replace("{tags}", ", ".join(f"[{tag}]" for tag in TAGS[layout]))
        self.write = self.write.replace("{rows}", str(rows)).replace("{columns}", str(columns))
        panels = Annotated[list[Text], Field(min_length=rows * columns, max_length=rows * columns)]
        self.form = create_model("GridPrompt", subject=(Text, ...), panels=(panels, ...), prompt=(Text, ...))
        version = hashlib.sha256(f"{filter}|{write}|{max_words}".encode()).hexdigest()[:8]
        self.content = content_of(captions)
        self.source = f"{service.model}, wording {version}"

    def __call__(self, index: int) -> Prompt:
        reasons = []
        for number in range(index * self.num, (index + 1) * self.num):
            if number >= len(self.captions):
                reasons.append("no more captions")
                break
            try:
                if rejected := self._filter(self.captions[number]):
                    reasons.append(rejected)
                else:
                    return self._write(index, number, self.captions[number])
            except ChatError as error:
                if error.kind == "unanswered":  # another caption would be another prompt than an unbroken run has
                    raise NoPrompt(str(error), unanswered=True) from error
                reasons.append(str(error))
        raise NoPrompt("; ".join(reasons))

    def _filter(self, caption: str) -> str:
        """Say why a caption cannot be used; "" where it can."""
        if self.filter is None:
            return ""
        said = self.service.ask(Question(self.filter.replace("{caption}", caption), (), Subject, FILTER_TOKENS))
        subject = Subject.model_validate_json(said)
        return "" if subject.has_subject else f"no subject to keep: {subject.reason}"

    def _write(self, index: int, number: int, caption: str) -> Prompt:
        """Ask for the prompt of a caption. ChatError where it is too long."""
        question = Question(self.write.replace("{caption}", caption), (), self.form, self.most_tokens)
        said = self.form.model_validate_json(self.service.ask(question)).model_dump()
        words = len(said["prompt"].split())
        if words > self.max_words:
            raise ChatError(f"the prompt has {words} words, {self.max_words} are allowed", final=True)
        return Prompt(
            index=index,
            prompt=" ".join(said["prompt"].split()),
            layout=self.layout,
            panel_captions=said["panels"],
            subject=said["subject"],
            relation=self.relation,
            source=f"{self.source}, caption {number}",
        )
