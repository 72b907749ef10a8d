"""Which students ComfyUI can draw with: its places of panels and references, beside ours.

ComfyUI knows the plain grid of a picture and three ways to place reference latents (ComfyUI@3cd7b32f and @4f874c5e,
comfy/ldm/flux/model.py, `_forward`). `index` numbers them 1, 2, ... (FLUX.2: 10, 20, ...), `uxo/uno` begins each one
where the picture before it ends, and `offset` lays all of them out on one sheet. All tokens see each other, so that a
memory of references (`attention=cached`) has no counterpart: the node FluxKVCache keeps what the first step has seen.
"""

from collections.abc import Mapping
from typing import Any

from dsd.errors import UserError

REFERENCE_METHODS = {  # of student=tokens: (family, positions) -> what FluxKontextMultiReferenceLatentMethod calls it
    ("flux1", "kontext"): "index",
    ("flux1", "diagonal"): "uxo/uno",
    ("flux2", "flux2"): "index",
    ("flux2", "diagonal"): "uxo/uno",
}


def reference_method(student: Mapping[str, Any]) -> str | None:
    """Name ComfyUI's method for the references of a student with tokens; None of a canvas."""
    if student["kind"] == "canvas":
        return None
    return REFERENCE_METHODS[student["family"], student["positions"]]


def refuse_in_comfyui(to: str, student: Mapping[str, Any], lora: Mapping[str, Any]) -> None:
    """Raise UserError where ComfyUI would draw something else than we do."""
    if lora["use_dora"] and to == "comfyui_lora":
        raise UserError("to=comfyui_lora: the adapter is a DoRA; export it merged, with to=comfyui")
    if student["kind"] == "canvas":
        if student["positions"] != "column":
            raise UserError(
                f"to={to}: the adapter was trained with positions={student['positions']}, and ComfyUI places a canvas "
                "by positions=column alone; use DSDPipeline"
            )
        return
    if (student["family"], student["positions"]) not in REFERENCE_METHODS:
        known = ", ".join(f"{positions} ({family})" for family, positions in REFERENCE_METHODS)
        raise UserError(
            f"to={to}: ComfyUI does not place references as positions={student['positions']} of {student['family']} "
            f"does; it has {known}"
        )
    if student["attention"] == "cached":
        raise UserError(
            f"to={to}: the adapter was trained with attention=cached, and in ComfyUI references see the whole picture; "
            "train with student.attention=full, or use DSDPipeline"
        )
