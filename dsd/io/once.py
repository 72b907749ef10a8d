"""Compute a value of an image once, even when many threads ask for it."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from PIL import Image

Value = TypeVar("Value")


class Once(Generic[Value]):
    """A function of an image whose values are kept as long as the image object lives. Thread-safe.

    Images are known by identity, because they compare by pixels and have no hash. An image must not be changed after
    its value was computed.
    """

    def __init__(self, compute: Callable[[Image.Image], Value]) -> None:
        self.compute, self.lock = compute, threading.Lock()
        self.known: dict[int, tuple[weakref.ref[Image.Image], Future[Value]]] = {}

    def __call__(self, image: Image.Image) -> Value:
        key, mine = id(image), Future[Value]()
        reference = weakref.ref(image, lambda _: self.known.pop(key, None))  # called in any thread: it takes no lock
        with self.lock:
            kept = self.known.setdefault(key, (reference, mine))[1]
        if kept is mine:
            try:
                mine.set_result(self.compute(image))
            except BaseException as error:
                self.known.pop(key, None)  # the next one who asks tries again
                mine.set_exception(error)
        return kept.result()
