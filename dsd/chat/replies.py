"""Check the bodies that providers answer with, at the one place where they enter.

A body that is no JSON or of another form is a failed call.
"""

from dataclasses import replace
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from dsd.chat import ChatError, Question, Reply, Tokens
from dsd.chat.reading import answer_in
from dsd.io.inputs import first_problem

Count = Annotated[int, Field(ge=0, le=10**9)] | None
ENDED = (None, "stop", "eos", "eos_token", "end_turn", "stop_sequence")  # what servers call a whole answer
CUT = ("length", "max_tokens")
FILTERED = (
    "content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii", "image_safety",
    "image_prohibited_content", "image_recitation", "jailbreak", "model_armor",
)  # fmt: skip


class Body(BaseModel):
    """Numbers must be numbers and texts texts. Other keys are of no concern."""

    model_config = ConfigDict(strict=True, frozen=True)


class Usage(Body):
    """What OpenAI's protocol says of a call's cost."""

    prompt_tokens: Count = None
    completion_tokens: Count = None


class Message(Body):
    """The answer, or why there is none."""

    content: str | None = None
    refusal: str | None = None


class Choice(Body):
    """One answer."""

    message: Message
    finish_reason: str | None = None


class Completion(Body):
    """A chat completion of OpenAI's protocol."""

    choices: list[Choice]
    usage: Usage | None = None
    model: str | None = None


class GeminiBody(Body):
    """Gemini writes keys in camel case."""

    model_config = ConfigDict(alias_generator=to_camel)


class Part(GeminiBody):
    """A piece of text."""

    text: str | None = None
    thought: bool | None = None


class Content(GeminiBody):
    """The pieces of an answer."""

    parts: list[Part] | None = None


class Candidate(GeminiBody):
    """One answer."""

    content: Content | None = None
    finish_reason: str | None = None


class Feedback(GeminiBody):
    """Why a prompt was blocked."""

    block_reason: str | None = None


class UsageMetadata(GeminiBody):
    """What a call cost; thoughts are paid for as output."""

    prompt_token_count: Count = None
    candidates_token_count: Count = None
    thoughts_token_count: Count = None


class Generation(GeminiBody):
    """An answer of Gemini's `generateContent`."""

    candidates: list[Candidate] | None = None
    prompt_feedback: Feedback | None = None
    usage_metadata: UsageMetadata | None = None
    model_version: str | None = None


Form = TypeVar("Form", bound=Body)


def openai_reply(body: bytes, question: Question) -> Reply:
    """Read a chat completion. ChatError where it holds no whole answer."""
    found = _read(body, Completion, "not a chat completion")
    usage = found.usage or Usage()
    tokens = usage.prompt_tokens, usage.completion_tokens
    if not found.choices:
        raise ChatError("no answer (empty)", malformed=True, tokens=tokens)
    choice = found.choices[0]
    if choice.message.refusal:
        raise ChatError(f"no answer ({choice.message.refusal})", refusal=True, tokens=tokens)
    whole = _whole(choice.message.content or "", choice.finish_reason, question, tokens)
    return replace(whole, model=found.model or "")


def gemini_reply(body: bytes, question: Question) -> Reply:
    """Read an answer of Gemini. ChatError where it holds no whole answer."""
    found = _read(body, Generation, "not an answer of Gemini")
    usage = found.usage_metadata or UsageMetadata()
    output = (usage.candidates_token_count, usage.thoughts_token_count)
    said = None if output == (None, None) else sum(number or 0 for number in output)
    tokens = usage.prompt_token_count, said
    blocked = found.prompt_feedback and found.prompt_feedback.block_reason
    if blocked and blocked != "BLOCK_REASON_UNSPECIFIED":
        raise ChatError(f"no answer ({blocked})", refusal=blocked != "OTHER", tokens=tokens)
    if not found.candidates:
        raise ChatError("no answer (empty)", malformed=True, tokens=tokens)
    candidate = found.candidates[0]
    parts = (candidate.content and candidate.content.parts) or []
    text = "".join(part.text or "" for part in parts if not part.thought)
    whole = _whole(text, candidate.finish_reason or "no finishReason", question, tokens)
    return replace(whole, model=found.model_version or "")


def _read(body: bytes, form: type[Form], name: str) -> Form:
    try:
        return form.model_validate_json(body)
    except (ValidationError, UnicodeError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else "not UTF-8"
        raise ChatError(f"{name} ({reason})", malformed=True) from error


def _whole(text: str, ended: str | None, question: Question, tokens: Tokens) -> Reply:
    """Make a reply of a text that ended for this reason. ChatError where it is refused, cut off or empty."""
    how = ended and ended.lower()
    if how in FILTERED:
        raise ChatError(f"no answer ({ended})", refusal=True, tokens=tokens)
    if how in CUT:
        most = f"at most {question.max_tokens} tokens; thoughts take room from vlm.limits.thinking_tokens"
        raise ChatError(f"the answer is cut off ({ended}: {most})", malformed=True, tokens=tokens)
    if how not in ENDED:
        raise ChatError(f"the answer did not end well ({ended})", malformed=True, tokens=tokens)
    answer = answer_in(text, question.answer)
    if not answer:
        raise ChatError("no answer (empty)", malformed=True, tokens=tokens)
    return Reply(answer, *tokens)
