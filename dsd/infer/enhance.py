"""Prompt enhancement: describe the reference, then write the user's prompt out (released code, two calls of Gemini).

Whatever happens, a picture is drawn: where the provider fails, the user's own prompt is used, and a warning says so.
"""

import hashlib
import json
import logging
from pathlib import Path

from PIL import Image

from dsd.chat import Chat, ChatError
from dsd.chat.encoding import png
from dsd.errors import UserError
from dsd.manifest import write_json

log = logging.getLogger(__name__)


class Enhancer:
    """Asks once for a picture, a prompt, a model and a wording; answers are kept in `folder`, a JSON file each."""

    def __init__(self, chat: Chat, describe: str, enrich: str, folder: str | Path) -> None:
        for field in ("{description}", "{prompt}"):
            if field not in enrich:
                raise UserError(f"enhance.enrich has no {field} in it")
        self.chat, self.describe, self.enrich, self.folder = chat, describe, enrich, Path(folder)

    def __call__(self, reference: Image.Image, prompt: str) -> str:
        """The enhanced prompt, or `prompt` itself where there is none."""
        picture = hashlib.sha256(png(reference)).hexdigest()
        try:
            description = self._ask(self.describe, picture, reference)
            question = self.enrich.replace("{description}", description).replace("{prompt}", prompt)
            enhanced = " ".join(self._ask(question, picture).strip('"').split())
        except ChatError as error:
            log.warning('prompt not enhanced, "%s" is used as it is: %s', _short(prompt), error)
            return prompt
        log.info('prompt enhanced: "%s"', enhanced)
        return enhanced

    def _ask(self, question: str, picture: str, *images: Image.Image) -> str:
        """The answer, from the cache where it is there."""
        asked = {"model": self.chat.model, "question": question, "picture": picture}
        file = self.folder / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:24]}.json"
        if file.is_file():
            return json.loads(file.read_text(encoding="utf-8"))["answer"]
        answer = self.chat.ask(question, images)
        write_json(file, {**asked, "answer": answer})
        return answer


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
