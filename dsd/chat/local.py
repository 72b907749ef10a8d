"""A vision-language model of transformers (Qwen2.5-VL, Qwen3-VL, SmolVLM and others) on this machine."""

from typing import Any

from dsd.chat import ChatError, Question, Reply, Sampling
from dsd.chat.reading import answer_in
from dsd.errors import UserError
from dsd.io.pictures import to_rgb


class Local:
    """A model that answers greedily, unless a question says how to sample: the same question has the same answer."""

    def __init__(self, model: str, dtype: str, device: str = "auto", max_new_tokens: int = 512) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from dsd.models.loading import moved, to_device, to_dtype

        self.model, self.max_new_tokens, self.no_gradients = model, max_new_tokens, torch.inference_mode
        self.seed = torch.manual_seed
        try:
            self.processor = AutoProcessor.from_pretrained(model)
            network = AutoModelForImageTextToText.from_pretrained(model, dtype=to_dtype(dtype), use_safetensors=True)
            self.network = moved(network, to_device(device))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"vlm.chat.model={model}: cannot be loaded: {str(error).strip().splitlines()[0]}"
            ) from error

    def ask(self, question: Question) -> Reply:
        """Answer one question."""
        text = question.text
        if question.answer is not None:
            text += f"\nAnswer with JSON of this schema: {question.answer.model_json_schema()}"
        images = [{"type": "image", "image": to_rgb(image)} for image in question.images]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": [*images, {"type": "text", "text": text}]}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        ).to(self.network.device, self.network.dtype)  # fmt: skip
        num, most = inputs["input_ids"].shape[1], min(self.max_new_tokens, question.max_tokens)
        with self.no_gradients():
            chosen = self._sampled(question.sampling)
            tokens = self.network.generate(**inputs, max_new_tokens=most, **chosen)[:, num:]
        spent = num, int(tokens.shape[1])
        if spent[1] >= most and int(tokens[0, -1]) not in self._ends():
            raise ChatError(f"the answer is cut off (max_new_tokens={most})", malformed=True, tokens=spent)
        answer = answer_in(self.processor.batch_decode(tokens, skip_special_tokens=True)[0], question.answer)
        if not answer:
            raise ChatError("no answer (empty)", malformed=True, tokens=spent)
        return Reply(answer, *spent)

    def _sampled(self, sampling: Sampling) -> dict[str, Any]:
        """Greedy without a temperature; otherwise sampled, from the seed where one is given."""
        if not sampling.temperature:
            return {"do_sample": False}
        if sampling.seed is not None:
            self.seed(sampling.seed)
        return {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}

    def _ends(self) -> list[int]:
        """List the tokens that end an answer."""
        ends = self.network.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [] if ends is None else [ends]
