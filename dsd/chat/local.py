"""A vision-language model of transformers (Qwen2.5-VL, Qwen3-VL, SmolVLM and others) on this machine."""

from collections.abc import Sequence

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from dsd.chat import ChatError
from dsd.errors import UserError
from dsd.models.base import to_device, to_dtype
from dsd.models.latents import to_rgb


class Local:
    """Answers greedily: the same question, the same answer."""

    def __init__(self, model: str, dtype: str, device: str = "auto", max_new_tokens: int = 512) -> None:
        self.model, self.max_new_tokens = model, max_new_tokens
        try:
            self.processor = AutoProcessor.from_pretrained(model)
            self.network = AutoModelForImageTextToText.from_pretrained(
                model, dtype=to_dtype(dtype), use_safetensors=True
            ).to(to_device(device))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"vlm.model={model}: cannot be loaded: {str(error).strip().splitlines()[0]}") from error

    @torch.inference_mode()
    def ask(self, text: str, images: Sequence[Image.Image] = ()) -> str:
        content = [*({"type": "image", "image": to_rgb(image)} for image in images), {"type": "text", "text": text}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        ).to(self.network.device, self.network.dtype)  # fmt: skip
        tokens = self.network.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        answer = self.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        if not answer.strip():
            raise ChatError("no answer (empty)")
        return answer.strip()
