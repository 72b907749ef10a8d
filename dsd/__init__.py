"""Diffusion Self-Distillation: a text-to-image model teaches itself identity-preserving image-to-image generation."""

import os

__version__ = "0.1.0"

# Read by the libraries when they are imported, hence here; a user's own setting wins.
for _variable, _value in {
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_LOGS": "-torch.utils._pytree",  # torchao's own deprecations
}.items():
    os.environ.setdefault(_variable, _value)
