"""How a provider may be asked: side by side, how often, and for how much. Limits that cannot work are refused."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dsd.errors import UserError

KEY = "vlm.limits"
KINDS = ("input", "output")  # of tokens that are priced
LEAST = {  # of numbers; those in WHOLE count something
    "concurrency": 1, "attempts": 1, "first_wait": 0, "requests_per_minute": 1, "tokens_per_minute": 1, "breaker": 1,
    "max_calls": 0, "max_cost": 0, "thinking_tokens": 0,
}  # fmt: skip
WHOLE = ("concurrency", "attempts", "breaker", "max_calls", "thinking_tokens")
OPTIONAL = ("requests_per_minute", "tokens_per_minute", "max_calls", "max_cost")


@dataclass(frozen=True)
class Limits:
    """How a provider may be asked. None is no limit. UserError where a limit cannot work."""

    concurrency: int = 16  # calls at once
    attempts: int = 5  # of a call, where asking again may help
    first_wait: float = 1.0  # seconds between attempts; it doubles, with jitter
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    breaker: int = 10  # failed calls in a row after which the run stops
    max_calls: int | None = None  # of this run
    max_cost: float | None = None  # of this run, in the price's currency
    thinking_tokens: int = 0  # room for a model's thoughts, beyond what each kind of answer may take
    price: Mapping[str, float] = field(default_factory=dict)  # per million tokens: {"input": ..., "output": ...}
    replay: bool = False  # answer from the cache alone

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None or name not in OPTIONAL:
                _check(f"{KEY}.{name}", value, least, whole=name in WHOLE)
        if not isinstance(self.replay, bool):
            raise UserError(f"{KEY}.replay={self.replay}: true or false is needed")
        self._check_price()

    def _check_price(self) -> None:
        example = f"'+{KEY}.price={{input: 0.3, output: 2.5}}', per million tokens"
        if not isinstance(self.price, Mapping):
            raise UserError(f"{KEY}.price={self.price}: input and output are needed, such as {example}")
        if self.price and set(self.price) != set(KINDS):
            raise UserError(f"{KEY}.price has {', '.join(map(str, self.price))}; exactly input and output are needed")
        for kind, value in self.price.items():
            _check(f"{KEY}.price.{kind}", value, 0)
        if self.max_cost is not None and not any(self.price.values()):
            raise UserError(f"{KEY}.max_cost={self.max_cost} cannot work without a price: give {example}")

    def cost(self, tokens: Mapping[str, int]) -> float:
        """Convert {"input_tokens": ..., "output_tokens": ...} to money."""
        return float(sum(self.price.get(kind, 0.0) * tokens[f"{kind}_tokens"] / 1e6 for kind in KINDS))


def _check(key: str, value: Any, least: float, whole: bool = False) -> None:
    """Raise UserError unless `value` is a finite number, of `least` or more."""
    kind = "whole number" if whole else "number"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not math.isfinite(value):
        raise UserError(f"{key}={value}: a {kind} is needed")
    if value < least:
        raise UserError(f"{key}={value}: at least {least} is needed")
