"""Diffusion Self-Distillation: a text-to-image model teaches itself identity-preserving image-to-image generation.

The names in `__all__` are the library's face. They are imported when they are first used, so `import dsd` is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dsd.version import __version__

if TYPE_CHECKING:
    from dsd.errors import UserError
    from dsd.io.records import Grid, Pair, Prompt, Result
    from dsd.models.adapter import load_adapter
    from dsd.models.adapter_file import read_adapter, save_adapter
    from dsd.models.student import CanvasStudent, Conditions, Student
    from dsd.pipeline.pipeline import DSDPipeline, DSDPipelineOutput
    from dsd.runs.shards import read_shards

__all__ = [
    "CanvasStudent",
    "Conditions",
    "DSDPipeline",
    "DSDPipelineOutput",
    "Grid",
    "Pair",
    "Prompt",
    "Result",
    "Student",
    "UserError",
    "__version__",
    "load_adapter",
    "read_adapter",
    "read_shards",
    "save_adapter",
]

_MODULES = {
    "dsd.errors": ("UserError",),
    "dsd.models.adapter": ("load_adapter",),
    "dsd.models.adapter_file": ("read_adapter", "save_adapter"),
    "dsd.models.student": ("CanvasStudent", "Conditions", "Student"),
    "dsd.pipeline.pipeline": ("DSDPipeline", "DSDPipelineOutput"),
    "dsd.io.records": ("Grid", "Pair", "Prompt", "Result"),
    "dsd.runs.shards": ("read_shards",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` from its module (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
