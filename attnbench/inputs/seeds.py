"""Random numbers by name. Each tensor has its own generator, so it does not depend on what else is made."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

SEEDS = 2**32
"""Upper bound of seeds: below it, every generator accepts them and every JSON reader keeps them exact."""


SETS = 3
"""How many input sets timed rounds rotate among."""


def normal(size: tuple[int, ...], *key: int | str) -> Tensor:
    """Return float32 standard normal numbers on the CPU that depend on ``size`` and ``key`` only."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little", signed=True)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator)
