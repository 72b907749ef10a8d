"""What is exported: an adapter of dsd-train, or the released files, and the base under it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dsd.errors import UserError
from dsd.models.adapter import load_adapter, load_released_lora
from dsd.models.adapter_file import read_adapter
from dsd.models.conditional import load_transformer, released_embedders, set_plain_embedder
from dsd.models.families import Family, family_named
from dsd.models.kinds import student_from
from dsd.models.loading import load_without_encoders
from dsd.models.student import Student
from dsd.models.tensors import read_tensors, refuse_not_finite
from dsd.publish.comfyui_rules import refuse_in_comfyui

FLUX_DEV = "black-forest-labs/FLUX.1-dev"


@dataclass(frozen=True)
class Source:
    """An adapter and the base under it."""

    adapter: str
    base: str  # folder or hub id
    state: Mapping[str, Tensor]
    metadata: Mapping[str, Any]
    license: str | None = None  # of what is made from it; None: the base's

    @classmethod
    def read(cls, adapter: str, base: str | None, license: str | None = None) -> "Source":
        """Read an adapter; `base=None` is the one that it names."""
        state, metadata = read_adapter(adapter)
        return cls(adapter, base or metadata["base"]["path"], state, metadata, license)

    def refuse(self, to: str) -> None:
        """Raise UserError where the kind of the student has no such format."""
        student = self.metadata["student"]
        if to not in ("diffusers", "comfyui_lora") and student["kind"] == "tokens":
            raise UserError(
                f"to={to} is for student=canvas; the adapter.safetensors of student=tokens is a LoRA that diffusers' "
                "load_lora_weights loads as it is (for ComfyUI: to=comfyui_lora; a whole pipeline: to=diffusers)"
            )
        if to in ("comfyui", "comfyui_lora"):
            refuse_in_comfyui(to, student, self.metadata["lora"])

    @property
    def family(self) -> Family:
        """The family of the base."""
        return family_named(self.metadata["student"]["family"])

    def plain(self) -> Any:
        """Load the base's transformer."""
        return load_without_encoders(self.base).transformer

    def merged(self) -> Any:
        """Load the student with its LoRA merged in fp32."""
        return self._loaded(fuse=True)

    def unmerged(self) -> Any:
        """Load the student with its LoRA beside the weights, W + BA: what exports are compared with."""
        return self._loaded(fuse=False)

    def _loaded(self, fuse: bool) -> Any:
        pipeline = load_without_encoders(self.base)
        twin = bool(pipeline.config.get("is_distilled"))
        load_adapter(pipeline.transformer, self.adapter, fuse, self.family, twin)
        return pipeline.transformer

    def student(self, transformer: Any) -> Student:
        """Make a transformer the student that was trained, computing in fp32."""
        return student_from(self.metadata["student"], transformer=transformer.float().eval())


@dataclass(frozen=True)
class Released(Source):
    """The released transformer, whose file holds the base and the condition embedder, and its LoRA."""

    lora_weights: str = ""

    @classmethod
    def read_files(cls, transformer: str, lora_weights: str, license: str | None = None) -> "Released":
        """Read the LoRA and the embedder. UserError where a file is not what was released."""
        factors, _ = read_tensors(lora_weights)
        refuse_not_finite(lora_weights, factors)
        ranks = {tensor.shape[0] for name, tensor in factors.items() if name.endswith(".lora_A.weight")}
        others = sorted(name for name in factors if not name.endswith((".lora_A.weight", ".lora_B.weight")))
        if len(ranks) != 1 or others:
            said = f"unknown tensors, such as {others[0]}" if others else f"ranks {sorted(ranks)} instead of one"
            raise UserError(f"lora_weights={lora_weights}: not the released LoRA: {said}")
        embedders = released_embedders(transformer)
        state = {**factors, **{name: t for name, t in embedders.items() if name.startswith("c_embedder.")}}
        rank = ranks.pop()
        lora = {"rank": rank, "alpha": rank, "targets": "attention", "use_rslora": False, "use_dora": False}
        student = {"kind": "canvas", "family": "flux1", "positions": "column"}
        metadata = {"base": {"path": FLUX_DEV}, "lora": lora, "student": student}
        return cls(transformer, FLUX_DEV, state, metadata, license, lora_weights)

    def plain(self) -> Any:
        """Load the base's transformer out of the released one."""
        return set_plain_embedder(load_transformer(self.adapter), released_embedders(self.adapter))

    def _loaded(self, fuse: bool) -> Any:
        transformer = load_transformer(self.adapter)
        load_released_lora(transformer, Path(self.lora_weights), fuse)
        return transformer
