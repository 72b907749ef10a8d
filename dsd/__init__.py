"""Diffusion Self-Distillation: a text-to-image model teaches itself identity-preserving image-to-image generation."""

__version__ = "0.1.0"
