"""A vision-language model as the judge: the paper's three steps for a pair, or UNO's scores of parts.

The wording is data (configs/judge/*.yaml). Pictures follow the text: the reference, then the target.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from statistics import fmean
from typing import Annotated, ClassVar, TypeVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from dsd.chat import ChatError, Question
from dsd.chat.service import Service
from dsd.curation.judge import UNANSWERED, Judgement, Refusal
from dsd.errors import UserError

Said = TypeVar("Said")
MOST_TOKENS = {"judge": 2048, "caption": 256, "instruct": 256}  # two to four times what a good answer takes
# A form's title and docstring are part of the schema that the model reads and of the cache's keys: do not reword them.


class Part(BaseModel):
    """How alike one part of the subject is."""

    part: str
    score: Annotated[float, Field(ge=0, le=4)]


class JudgementForm(BaseModel):
    """The steps in the order in which they are to be thought: what both show, each in detail, parts, the conclusion."""

    model_config = ConfigDict(title="Judgement")

    common_subject: str
    first_description: str
    second_description: str
    parts: list[Part]
    reason: str
    same: bool


class VLMJudge:
    """`dsd.curation.judge.Judge` by questions to a `Service`, each asked by itself in the service's pool."""

    scores: ClassVar[Sequence[str]] = ("parts", "worst_part")

    def __init__(
        self, service: Service | None, judge: str, caption: str, instruct: str, verdicts_dir: str = ""
    ) -> None:
        if not isinstance(service, Service):
            raise UserError("this judge needs a vision-language model: choose vlm=gemini, openai, server or local")
        self.service, self.wording = service, {"judge": judge, "caption": caption, "instruct": instruct}
        self.purpose = ledger_name(verdicts_dir)
        # Every grid has six questions or more at first and one at last: the threads stay busy, and memory is bounded.
        self.grids_in_flight = 2 + service.limits.concurrency // 3

    def judge(
        self, references: Sequence[Image.Image], targets: Sequence[Image.Image]
    ) -> list[Future[Judgement | Refusal]]:
        def read(answer: str) -> Judgement:
            return judgement(JudgementForm.model_validate_json(answer))

        return self._ask("judge", zip(references, targets, strict=True), read, JudgementForm)

    def caption(self, images: Sequence[Image.Image]) -> list[Future[str | Refusal]]:
        return self._ask("caption", ((image,) for image in images), one_line)

    def instruct(
        self, references: Sequence[Image.Image], targets: Sequence[Image.Image]
    ) -> list[Future[str | Refusal]]:
        return self._ask("instruct", zip(references, targets, strict=True), one_line)

    def _ask(
        self,
        wording: str,
        pictures: Iterable[Sequence[Image.Image]],
        read: Callable[[str], Said],
        form: type[BaseModel] | None = None,
    ) -> list[Future[Said | Refusal]]:
        """Ask the same about each of these pictures; `read` turns a text into an answer."""

        def answer(question: Question) -> Said | Refusal:
            try:
                return read(self.service.ask(question, self.purpose))
            except ChatError as error:
                return Refusal(f"{error.kind}: {error}", error.kind == UNANSWERED)

        text, most = self.wording[wording], MOST_TOKENS[wording]
        return [self.service.pool.submit(answer, Question(text, images, form, most)) for images in pictures]


def one_line(text: str) -> str:
    """Put a text on one line."""
    return " ".join(text.split())


def ledger_name(verdicts_dir: str | Path) -> str:
    """Name the calls for these verdicts in the ledger."""
    return f"curation {Path(verdicts_dir).resolve()}"


def judgement(said: JudgementForm) -> Judgement:
    """Read a filled form. The scores `parts` (mean) and `worst_part` (least) are from 0 to 4; UNO keeps a mean of 4."""
    scores = [part.score for part in said.parts]
    worst = min(said.parts, key=lambda part: part.score, default=None)
    detail = f" (worst part: {worst.part}, {worst.score:g} of 4)" if worst is not None and worst.score < 4 else ""
    return Judgement(
        common_subject=said.common_subject,
        reference_description=said.first_description,
        target_description=said.second_description,
        same=said.same,
        reason=said.reason + detail,
        scores={"parts": fmean(scores), "worst_part": min(scores)} if scores else {},
    )
