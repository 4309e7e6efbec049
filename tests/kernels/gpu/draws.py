"""How many cases the property tests of kernels draw."""

from __future__ import annotations

import torch


def draws(count: int) -> int:
    """Return ``count`` on a GPU, and a fifth of it in Triton's interpreter, which needs up to seconds a case."""
    return count if torch.cuda.is_available() else -(-count // 5)
