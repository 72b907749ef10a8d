"""Turn what the engine tells into what the page shows."""

from collections.abc import Iterator
from typing import Any

from PIL import Image

from dsd.app.engine import Drawn, Engine, Loading, News, Step, Waiting
from dsd.app.look import status
from dsd.app.turns import Stopped
from dsd.app.wishes import Wish


class Report:
    """Follows one request: what is drawn so far, a preview of what comes, and a line of status."""

    def __init__(self, asked: list[Wish]) -> None:
        self.asked, self.drawn = asked, list[Drawn]()
        self.preview: Image.Image | None = None
        self.step = self.steps = 0
        self.line = status("Starting")

    def follow(self, engine: Engine, user: str) -> Iterator[None]:
        """Draw; yields whenever there is something new to show, the last time when all is done or stopped."""
        try:
            for news in engine.draw(self.asked, user):
                self.hear(news)
                yield
        except Stopped:
            self.line = status(f"Stopped {self.where}; {self.done}")
        else:
            self.line = status(f"Done: {self.done}", 1)
        self.preview = None
        yield

    def hear(self, news: News) -> None:
        """Take in what the engine tells."""
        num = len(self.asked)
        if isinstance(news, Waiting):
            self.line = status(f"Waiting: {news.ahead} ahead", 0)
        elif isinstance(news, Loading):
            self.line = status(f"Loading {news.name}", 0)
        elif isinstance(news, Step):
            self.step, self.steps, self.preview = news.step, news.steps, news.preview or self.preview
            share = (news.picture + news.step / news.steps) / num
            self.line = status(f"Picture {news.picture + 1} of {num}, step {news.step} of {news.steps}", share)
        else:
            self.drawn.append(news)
            self.preview, self.step = None, 0
            self.line = status(f"{self.done}", len(self.drawn) / num)

    @property
    def where(self) -> str:
        return f"at step {self.step} of {self.steps}" if self.step else "before the first step"

    @property
    def done(self) -> str:
        return f"{len(self.drawn)} of {len(self.asked)} pictures"

    def gallery(self) -> list[Any]:
        """List the pictures as files, which carry their settings, and the preview of the next."""
        shown: list[Any] = [(str(one.path), f"seed {one.wish.seed}: {one.wish.prompt}") for one in self.drawn]
        return [*shown, (self.preview, f"step {self.step} of {self.steps}")] if self.preview is not None else shown

    def redrawn(self) -> list[Any]:
        """List the references as a canvas student redrew them."""
        return [(one.redrawn, f"seed {one.wish.seed}") for one in self.drawn if one.redrawn is not None]
