"""Enhance a prompt in two calls of a language model: describe the reference, then enrich the user's prompt.

Key and address come from the environment alone. A workflow is a file from others: it must not choose where a key goes.
"""

import base64
import io
import json
import os
import urllib.error
import urllib.request
from typing import Any

from PIL import Image

DESCRIBE = (
    "Describe this image as a prompt for a text-to-image model, in one line of at most 77 tokens: the main subject "
    "first, with every visible trait that makes it recognisable (kind, shape, colours, materials, markings, clothing, "
    "accessories), then environment, pose, lighting, camera and style. Answer with the prompt alone."
)
ENRICH = (
    "A text-to-image model redraws the subject of a reference image in a new context. The reference: "
    '"{description}". The user asks for: "{prompt}". Enrich the user\'s prompt with the details of the subject, and '
    "only those: keep everything the user wrote, contradict none of it, and do not take over the reference's "
    "environment or pose. One line of at most 77 tokens. Answer with the prompt alone."
)
PROVIDERS = {  # name -> (environment variable of the key, of the address, the usual address)
    "gemini": (
        "GEMINI_API_KEY", "GEMINI_BASE_URL", "https://generativelanguage.googleapis.com/v1beta/openai",
    ),
    "openai": ("OPENAI_API_KEY", "OPENAI_BASE_URL", "https://api.openai.com/v1"),
}  # fmt: skip
LARGEST_SIDE = 1024  # pixels of the picture that is sent
TIMEOUT = 120  # seconds a call


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirection: urllib would send the key on to another server."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def enhanced(picture: Image.Image, prompt: str, provider: str, model: str) -> str:
    """Return the enhanced prompt. RuntimeError says what went wrong, without the key."""
    description = ask(provider, model, DESCRIBE, picture)
    answer = ask(provider, model, ENRICH.replace("{description}", description).replace("{prompt}", prompt))
    return " ".join(answer.strip().strip('"').split())


def ask(provider: str, model: str, question: str, picture: Image.Image | None = None) -> str:
    """Ask a server of OpenAI's chat completions, which Gemini is, too."""
    key_name, address_name, usual = PROVIDERS[provider]
    key, address = os.environ.get(key_name), os.environ.get(address_name) or usual
    if not key:
        raise RuntimeError(f"DSD Enhance Prompt: set {key_name} in the environment of ComfyUI, then start it again")
    content: list[dict[str, Any]] = [{"type": "text", "text": question}]
    if picture is not None:
        content.append({"type": "image_url", "image_url": {"url": data_url(picture)}})
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": content}]}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{address.rstrip('/')}/chat/completions", body, headers)
    try:
        with urllib.request.build_opener(NoRedirect).open(request, timeout=TIMEOUT) as response:
            answer = json.load(response)["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"DSD Enhance Prompt: {provider} answers {error.code} {error.reason}") from None
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise RuntimeError(f"DSD Enhance Prompt: no answer from {provider} ({type(error).__name__})") from None
    if not isinstance(answer, str) or not answer.strip():
        raise RuntimeError(f"DSD Enhance Prompt: {provider} answers nothing")
    return answer


def data_url(picture: Image.Image) -> str:
    """Encode a picture as a JPEG within a URL."""
    small = picture.convert("RGB")
    small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
