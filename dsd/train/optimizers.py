"""Optimisers of packages that need not be installed. Any other is named by its class in configs/optimizer/."""

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from dsd.errors import UserError


def adamw8bit(params: Iterable[nn.Parameter], lr: float, **settings: Any) -> torch.optim.Optimizer:
    """Make bitsandbytes' AdamW with 8-bit states, a quarter of the memory (arXiv 2110.02861)."""
    optimizer: torch.optim.Optimizer = _package("bitsandbytes", "optimizer=adamw8bit").optim.AdamW8bit(
        params, lr=lr, **settings
    )
    return optimizer


def prodigy(params: Iterable[nn.Parameter], lr: float, **settings: Any) -> torch.optim.Optimizer:
    """Make Prodigy, which finds the learning rate by itself (arXiv 2306.06101)."""
    optimizer: torch.optim.Optimizer = _package("prodigyopt", "optimizer=prodigy").Prodigy(params, lr=lr, **settings)
    return optimizer


def refuse_optimizer(make: Callable[..., torch.optim.Optimizer], learning_rate: float) -> None:
    """Raise UserError where an optimiser's package is missing or refuses its settings."""
    try:
        make([nn.Parameter(torch.zeros(1))], lr=learning_rate)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer: {error}") from error


def _package(name: str, setting: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{setting} needs the package {name}: pip install {name}") from error
