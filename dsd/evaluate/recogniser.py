"""What looks at the pictures: a recogniser that no other stage has met."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Protocol

from PIL import Image
from tqdm import tqdm

Reading = dict[str, str]  # attribute -> value, such as {"belly": "green", "scene": "beach"}


class Recogniser(Protocol):
    """Reads the attributes of `dsd.toybox.world` off pictures of one panel each."""

    measured: Mapping[str, Mapping[str, float]]  # its accuracy by kind of picture and attribute, where it is known

    def read(self, images: list[Image.Image]) -> Sequence[Reading]: ...


def read_all(
    recogniser: Recogniser, images: Iterable[Image.Image], batch_size: int, bar: tqdm | None = None
) -> list[Reading]:
    """`recogniser.read`, a batch at a time: pictures are decoded only when their turn comes."""
    readings: list[Reading] = []
    upcoming = iter(images)
    while batch := [image.convert("RGB") for image in islice(upcoming, batch_size)]:
        readings += recogniser.read(batch)
        if bar is not None:
            bar.update(len(batch))
    return readings
