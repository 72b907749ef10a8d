"""A judge whose answers are known: a server that reads the truth that `worlds.pictures` wrote into the pixels.

It answers a rubric by the share of attributes that agree, on the rubric's scale, with chosen noise. A rubric that shows
a reference is about the subject, one that shows the picture alone about the context that the prompt names.
"""

import base64
import io
import json
import random
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image
from servers import gemini_says, openai_says

from dsd.toybox.world import ATTRIBUTES, CONTEXT, SUBJECT, words

MODEL = "Qwen/Qwen3-VL-8B-Instruct"
USAGE = {"prompt_tokens": 700, "completion_tokens": 30, "total_tokens": 730}


def shown(url: str) -> dict[str, str]:
    data = url.rpartition(",")[2].replace("-", "+").replace("_", "/")  # Gemini's client uses the other alphabet
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    return words(pixels[-1, : len(ATTRIBUTES), 0], ATTRIBUTES)


def parts_of(body: dict[str, Any]) -> tuple[str, list[str]]:
    """The text and the pictures of a request, in either protocol."""
    if "messages" in body:
        text, *pictures = body["messages"][0]["content"]
        return text["text"], [picture["image_url"]["url"] for picture in pictures]
    text, *pictures = body["contents"][0]["parts"]
    return text["text"], [picture["inlineData"]["data"] for picture in pictures]


def score_of(text: str, pictures: list[str], most: int) -> int:
    """The true score: the share of attributes that agree, rounded to the scale."""
    *references, picture = map(shown, pictures)
    if references:
        agree = [picture[name] == references[0][name] for name in SUBJECT]
    else:
        prompt = text.split('this prompt: "')[1].split('"')[0]
        agree = [picture[name] in prompt for name in CONTEXT]
    return round(most * sum(agree) / len(agree))


class Judge:
    """Answers requests; counts those that it answered by what they asked."""

    def __init__(self, noise: float = 0.0, seed: int = 0, model: str = MODEL) -> None:
        self.noise, self.rng, self.model = noise, random.Random(seed), model
        self.paid = Counter[str]()

    def say(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        text, pictures = parts_of(body)
        self.paid[json.dumps([text, pictures, body.get("seed")])] += 1
        score = score_of(text, pictures, 4)
        if self.rng.random() < self.noise:
            score = min(4, max(0, score + self.rng.choice((-1, 1))))
        answer = json.dumps({"reason": f"{score} of 4 parts", "score": score})
        if "messages" in body:
            return 200, openai_says(answer) | {"model": self.model, "usage": USAGE}
        counts = {"promptTokenCount": 700, "candidatesTokenCount": 30}
        return 200, gemini_says(answer) | {"modelVersion": self.model, "usageMetadata": counts}
