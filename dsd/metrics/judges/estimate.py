"""What a judge's questions may cost, before any is asked. An estimate: providers count pictures in their own ways."""

from collections.abc import Sequence
from math import ceil

from dsd.chat.limits import Limits
from dsd.metrics.judges.card import Card

PATCH = 28  # pixels a token wide and high, as Qwen2.5-VL counts (14-pixel patches, merged two by two)
CHARACTERS = 4  # of English text a token
ANSWER = 80  # tokens of a reason in one sentence and a score


def tokens_of(card: Card, rubrics: Sequence[str]) -> tuple[float, float]:
    """Mean tokens of a question with one reference and of its answer."""
    picture = ceil(card.picture_size / PATCH) ** 2
    num = [2 if card.rubrics[name].shows == "references" else 1 for name in rubrics]
    text = [len(card.rubrics[name].wording) / CHARACTERS for name in rubrics]
    return sum(text) / len(rubrics) + picture * sum(num) / len(num), min(ANSWER, card.max_tokens)


def price_of(num: int, card: Card, rubrics: Sequence[str], limits: Limits | None) -> str:
    """Say about how many tokens `num` questions take, and what they cost by the limits' price."""
    given, made = (round(num * tokens) for tokens in tokens_of(card, rubrics))
    said = f"about {given:,} input and {made:,} output tokens"
    if limits is None or not limits.price:
        return f"{said}; vlm.limits.price would say the cost"
    cost = limits.cost({"input_tokens": given, "output_tokens": made})
    stop = "no vlm.limits.max_cost stops it" if limits.max_cost is None else f"stops at {limits.max_cost:g}"
    return f"{said}, about {cost:.2f} by vlm.limits.price ({stop})"
