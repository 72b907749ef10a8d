"""Enhance a prompt in two calls: describe the reference, then enrich the user's prompt (as the released code does).

A failing provider never stops a picture: the user's own prompt is used then, and a warning says so.
"""

import logging

from PIL import Image

from dsd.chat import ChatError, Question
from dsd.chat.service import Service
from dsd.errors import UserError

log = logging.getLogger(__name__)
MOST_TOKENS = 1024  # of a description or a prompt; the text encoders read 512


class Enhancer:
    """Turns a reference and a prompt into an enhanced prompt. The service keeps its answers and asks nothing twice."""

    def __init__(self, service: Service, describe: str, enrich: str) -> None:
        for field in ("{description}", "{prompt}"):
            if field not in enrich:
                raise UserError(f"enhance.enrich has no {field} in it")
        self.service, self.describe, self.enrich = service, describe, enrich

    def __call__(self, reference: Image.Image, prompt: str) -> str:
        """Return the enhanced prompt, or `prompt` itself where the provider fails."""
        try:
            enhanced = self.enhanced(reference, prompt)
        except (ChatError, UserError) as error:  # the picture is drawn even when the provider is down
            log.warning('prompt not enhanced, "%s" is used as it is: %s', _short(prompt), error)
            return prompt
        log.info('prompt enhanced: "%s"', enhanced)
        return enhanced

    def enhanced(self, reference: Image.Image, prompt: str) -> str:
        """Return the enhanced prompt. ChatError or UserError where the provider fails."""
        description = self.service.ask(Question(self.describe, (reference,), max_tokens=MOST_TOKENS))
        question = self.enrich.replace("{description}", description).replace("{prompt}", prompt)
        return " ".join(self.service.ask(Question(question, max_tokens=MOST_TOKENS)).strip('"').split())


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
