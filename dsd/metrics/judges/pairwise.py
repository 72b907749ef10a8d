"""A pairwise consistency judge with open weights: P(yes) that a picture is consistent with its reference.

For PaCo-Reward-7B and others of its class: a Qwen2.5-VL that answers "Yes" or "No" first. The score is
P(Yes) / (P(Yes) + P(No)) of the first token, as in X-GenGroup/PaCo-RL@cd3c428
(PaCo-Reward/evaluation/Consistency_Rank/consistency_scorer.py).
"""

from collections.abc import Sequence

import torch
from PIL import Image

from dsd.errors import UserError
from dsd.io.pictures import to_rgb
from dsd.metrics.measure import Drawing, Scale, Scores
from dsd.models.loading import moved, to_device, to_dtype

YES, NO = "Yes", "No"


class PairwiseConsistency:
    """`consistency`: the mean over a picture's references. `model` is a folder or a hub id, `revision` a commit."""

    grids = None
    scale = Scale(
        ("consistency",),
        headline="consistency",
        explained="consistency is the probability that a model answers yes when it is asked whether the picture is "
        "consistent with its reference.",
        unit="P(yes)",
    )

    def __init__(
        self, model: str, wording: str, revision: str | None = None, dtype: str = "bfloat16", device: str = "auto"
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.wording = wording
        try:
            self.processor = AutoProcessor.from_pretrained(model, revision=revision)
            network = AutoModelForImageTextToText.from_pretrained(
                model, revision=revision, dtype=to_dtype(dtype), use_safetensors=True
            )
        except (OSError, ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(f"measure.consistency.model={model}: cannot be loaded: {first}") from error
        self.network = moved(network, to_device(device))
        tokens = [self.processor.tokenizer.encode(word, add_special_tokens=False)[0] for word in (YES, NO)]
        if tokens[0] == tokens[1]:
            raise UserError(f"measure.consistency.model={model}: its tokenizer begins {YES} and {NO} alike")
        self.tokens = tokens

    def objection(self, prompt: str, truth: str) -> str:
        """Nothing: any picture has a reference."""
        return ""

    def self_check(self) -> None:
        """Its agreement with people is measured apart, by `dsd-evaluate mode=agreement`."""
        return

    def __call__(self, drawings: Sequence[Drawing]) -> list[Scores]:
        """Score every picture, in order."""
        rows = []
        for drawing in drawings:
            references = (drawing.reference, *drawing.others)
            said = [self.probability(reference, drawing.picture) for reference in references]
            rows.append({"consistency": sum(said) / len(said)})
        return rows

    @torch.inference_mode()
    def probability(self, reference: Image.Image, picture: Image.Image) -> float:
        """P(yes) of a reference and a picture, in this order."""
        images = [{"type": "image", "image": to_rgb(image)} for image in (reference, picture)]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": [*images, {"type": "text", "text": self.wording}]}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        ).to(self.network.device, self.network.dtype)  # fmt: skip
        logits = self.network(**inputs).logits[0, -1, self.tokens]
        return float(logits.double().softmax(dim=0)[0])
