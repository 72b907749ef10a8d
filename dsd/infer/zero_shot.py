"""The base by itself with references, as its makers taught it: the row that every table of a student needs.

The class is diffusers' own, chosen by the checkpoint's model_index.json.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from dsd.errors import UserError
from dsd.flow import generator_at
from dsd.infer.methods import Parts, References, refuse_nan
from dsd.models.loading import class_of, load_pipeline
from dsd.pipeline.prompt_encoding import Text, text_of


def listed(references: References) -> dict[str, Any]:
    """All references as a list: the pipeline appends their tokens."""
    return {"image": references}


def single(references: References) -> dict[str, Any]:
    """One reference; a list would be a batch."""
    return {"image": references[0]}


@dataclass(frozen=True)
class Customiser:
    """How a pipeline class of diffusers takes references."""

    most_references: int  # that its makers name
    given: Callable[[References], dict[str, Any]]
    guidance: str | None = None  # argument of true guidance with a negative prompt; None: as text_only
    keeps_area: bool = False  # chooses its own size for the area `max_area`


CUSTOMISERS = {
    "Flux2Pipeline": Customiser(10, listed),
    "Flux2KleinPipeline": Customiser(10, listed),
    "FluxKontextPipeline": Customiser(1, single, keeps_area=True),
    "QwenImageEditPipeline": Customiser(1, single, guidance="true_cfg_scale"),
    "QwenImageEditPlusPipeline": Customiser(3, listed, guidance="true_cfg_scale"),
}


def customiser_of(path: str) -> Customiser:
    """Find how a base takes references. UserError where its class takes none."""
    name = class_of(path)
    if name not in CUSTOMISERS:
        known = ", ".join(sorted(CUSTOMISERS))
        raise UserError(
            f"method=zero_shot: model.path={path} is a {name}, which takes no references by itself; "
            f"bases that do: {known}"
        )
    return CUSTOMISERS[name]


class ZeroShot:
    """Draws a base's pictures one at a time: a batch would share its references."""

    def __init__(self, parts: Parts, name: str, takes_adapter: bool) -> None:
        self.customiser = customiser_of(parts.path)
        self.most_references: int | None = self.customiser.most_references
        settings = parts.settings
        self.sizes = {key: settings[key] for key in ("height", "width", "num_inference_steps")}
        if self.customiser.keeps_area:
            self.sizes["max_area"] = settings["height"] * settings["width"]
        pipeline: Any = load_pipeline(parts.path, dtype=parts.dtype, device=str(parts.device))
        length, guidance = settings["max_sequence_length"], settings["guidance_scale"]
        self.text: Text
        if self.customiser.guidance is None:
            self.text, self.pipeline = text_of(pipeline, length, guidance, parts.device)
        else:
            self.text, self.pipeline = Guided(self.customiser.guidance, length, guidance), pipeline
        self.pipeline.to(parts.device)
        self.pipeline.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def __call__(
        self, references: Sequence[References], prompts: Sequence[str], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """Draw every prompt with its references."""
        self.text.prepare(prompts)
        jobs = zip(references, prompts, seeds, strict=True)
        return [self.one(pictures, self.text.arguments([prompt]), seed) for pictures, prompt, seed in jobs]

    def one(self, references: References, said: Mapping[str, Any], seed: int) -> Image.Image:
        """Draw one picture. UserError where the pipeline refuses a reference, such as a very narrow one."""
        if len(references) > (most := self.customiser.most_references):
            raise UserError(f"{len(references)} references for a picture: this base takes at most {most}")
        try:
            (picture,) = self.pipeline(
                **self.customiser.given(references), **said, generator=generator_at(seed),
                callback_on_step_end=refuse_nan, **self.sizes,
            ).images  # fmt: skip
        except ValueError as error:
            raise UserError(f"the base refuses the job: {str(error).strip().splitlines()[0]}") from error
        drawn: Image.Image = picture
        return drawn


@dataclass
class Guided:
    """Prompts of a pipeline that reads them together with the references, with true guidance."""

    guidance: str
    max_sequence_length: int
    guidance_scale: float

    def prepare(self, prompts: Sequence[str]) -> None:
        """Nothing to prepare: a prompt is encoded with its references."""

    def arguments(self, prompts: Sequence[str]) -> dict[str, Any]:
        negative = {"negative_prompt": " "} if self.guidance_scale > 1 else {}
        settings = {"max_sequence_length": self.max_sequence_length, self.guidance: self.guidance_scale}
        return {"prompt": prompts[0], **negative, **settings}
