"""Ask for the prompts of the next shard while the current one is drawn: a language model may write them."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from dsd.data_gen.prompts import NoPrompt, PromptSource
from dsd.io.records import Prompt

ASKED_AT_ONCE = 8  # prompts of a source that does not say how many


class PromptsAhead:
    """The prompts of ranges of positions that are known in advance.

    Whoever takes the prompts of one range has those of the next one asked for. A prompt is a function of its position,
    so this changes no prompt.
    """

    def __init__(self, prompt_at: PromptSource, ranges: Sequence[range]) -> None:
        self.prompt_at, self.ranges = prompt_at, list(ranges)
        self.asked: dict[range, list[Future[Prompt | NoPrompt]]] = {}
        self.pool = ThreadPoolExecutor(getattr(prompt_at, "asked_at_once", ASKED_AT_ONCE))

    def __call__(self, positions: range) -> list[Prompt | NoPrompt]:
        """Return the prompts of one of the ranges in order, or why there is none, and ask for the next range."""
        try:
            self._ask(positions)
            prompts = [future.result() for future in self.asked.pop(positions)]
        except BaseException:  # such as a budget that is used up: nothing more is asked
            self.close()
            raise
        following = self.ranges.index(positions) + 1
        if following < len(self.ranges):
            self._ask(self.ranges[following])
        else:
            self.close()
        return prompts

    def close(self) -> None:
        """Ask nothing more; prompts under way are waited for, since their answers are kept."""
        self.pool.shutdown(cancel_futures=True)

    def _ask(self, positions: range) -> None:
        if positions not in self.asked:
            self.asked[positions] = [self.pool.submit(self._one, index) for index in positions]

    def _one(self, index: int) -> Prompt | NoPrompt:
        try:
            return self.prompt_at(index)
        except NoPrompt as error:
            return error
