"""Encode pictures for HTTP requests, and name them by their pixels."""

import base64
import hashlib
import weakref
from io import BytesIO

from PIL import Image

from dsd.io.pictures import to_rgb

MIME = "image/png"
_digests: dict[int, tuple[weakref.ref[Image.Image], str]] = {}  # by id: images compare by pixels, so they are no keys


def png(image: Image.Image, longest: int = 1024) -> bytes:
    """Encode a picture as an upright RGB PNG, at most `longest` pixels wide and high."""
    image = to_rgb(image)
    image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def digest(image: Image.Image) -> str:
    """Hash the pixels that `png` would send, whatever file they came from; much faster than encoding them.

    A panel is asked about in many pairs. The digest of an image object is remembered as long as the object lives.
    """
    key = id(image)
    reference, known = _digests.get(key, (None, ""))
    if reference is None or reference() is not image:
        rgb = to_rgb(image)
        known = hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()
        _digests[key] = weakref.ref(image, lambda _: _digests.pop(key, None)), known
    return known


def data_url(image: Image.Image) -> str:
    """Encode a picture as a data URL."""
    return f"data:{MIME};base64,{base64.b64encode(png(image)).decode()}"
