"""What follows from an image is computed once, by whichever thread asks first, and goes with the image."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from dsd.io.once import Once


def test_many_threads_compute_it_once_and_equal_images_are_not_confused() -> None:
    calls, together = [], threading.Barrier(8, timeout=600)
    once = Once(lambda image: calls.append(id(image)) or image.tobytes())
    images = [Image.new("RGB", (2, 2), "red") for _ in range(2)]

    def ask(number: int) -> bytes:
        together.wait()
        return once(images[number % 2])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {images[0].tobytes()}
    assert sorted(calls) == sorted(map(id, images))
    images.clear()
    gc.collect()
    assert once.known == {}


def test_a_failure_is_not_kept() -> None:
    fails = [True]

    def compute(image: Image.Image) -> int:
        if fails[0]:
            raise OSError("disk")
        return image.width

    once, image = Once(compute), Image.new("RGB", (3, 3))
    with pytest.raises(OSError, match="disk"):
        once(image)
    fails[0] = False
    assert once(image) == 3
