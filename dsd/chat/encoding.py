"""Encode pictures for HTTP requests, and name them by their pixels. Each is done once for an image object."""

import base64
import hashlib
from functools import partial
from io import BytesIO
from typing import Any

from PIL import Image

from dsd.errors import UserError
from dsd.io.once import Once
from dsd.io.pictures import to_rgb

PNG, JPEG = "png", "jpeg"  # the setting vlm.chat.picture_format
LONGEST = 1024  # pixels
_OPTIONS: dict[str, dict[str, Any]] = {PNG: {"compress_level": 1}, JPEG: {"quality": 95, "subsampling": 0}}


def encode(image: Image.Image, picture_format: str) -> bytes:
    """Encode a picture as upright RGB, at most LONGEST pixels wide and high."""
    image = to_rgb(image)
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, picture_format, **_OPTIONS[picture_format])
    return buffer.getvalue()


def pixel_hash(image: Image.Image) -> str:
    """Hash the pixels that are sent, whatever file they came from; much faster than encoding them."""
    rgb = to_rgb(image)
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()


digest = Once(pixel_hash)
_encoders = {name: Once(partial(encode, picture_format=name)) for name in _OPTIONS}


def encoded(image: Image.Image, picture_format: str = PNG) -> bytes:
    """Encode a picture, or return its bytes where another question about this very object had them made."""
    return _encoders[picture_format](image)


def mime(picture_format: str) -> str:
    """Name a format as HTTP does."""
    return f"image/{picture_format}"


def data_url(image: Image.Image, picture_format: str = PNG) -> str:
    """Encode a picture as a data URL."""
    return f"data:{mime(picture_format)};base64,{base64.b64encode(encoded(image, picture_format)).decode()}"


def checked_format(picture_format: str) -> str:
    """Return the name of a format. UserError where pictures cannot be sent in it."""
    if picture_format not in _OPTIONS:
        raise UserError(f"vlm.chat.picture_format={picture_format}: choose one of {', '.join(_OPTIONS)}")
    return picture_format
