"""Random numbers by name, made on the CPU, so that every device, batch and resumed run sees the same ones."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator that depends on ``key`` only."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little", signed=True)
    return torch.Generator().manual_seed(seed)


def uniform(size: tuple[int, ...], *key: int | str) -> Tensor:
    """Return float32 numbers in [0, 1) of ``size`` that depend on ``size`` and ``key`` only."""
    return torch.rand(size, generator=generator(*key))


def normal(size: tuple[int, ...], *key: int | str) -> Tensor:
    """Return float32 standard normal numbers of ``size`` that depend on ``size`` and ``key`` only."""
    return torch.randn(size, generator=generator(*key))
