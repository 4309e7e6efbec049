"""Rotary position embedding over (t, h, w), as in Wan 2.1."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, coordinates

THETA = 10_000.0
"""Base of the rotation frequencies (wan/modules/model.py, rope_params)."""


def frequencies(head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rotation frequencies, in radians per token, of the channel pairs that turn with t, with h and with w.

    h and w get ``head_dim // 6`` pairs each and t the rest; within an axis of n pairs, pair i turns by
    ``THETA ** (-i / n)``. Float64.

    Raises:
        BadInput: if ``head_dim`` is odd, because channels are rotated in pairs.
    """
    if head_dim % 2:
        raise BadInput(f"head_dim {head_dim} must be even for video inputs: 3-D RoPE rotates channels in pairs")
    side = head_dim // 6
    counts = (head_dim // 2 - 2 * side, side, side)
    t, h, w = (THETA ** (-torch.arange(count, dtype=torch.float64) / max(count, 1)) for count in counts)
    return t, h, w


def rotations(grid: Grid, head_dim: int) -> Tensor:
    """Return the rotation of each token and channel pair as unit complex numbers, complex64 [T·H·W, head_dim / 2]."""
    position = coordinates(grid, torch.device("cpu")).double()
    angles = [position[:, axis, None] * frequency for axis, frequency in enumerate(frequencies(head_dim))]
    return torch.polar(torch.ones((), dtype=torch.float64), torch.cat(angles, dim=1)).to(torch.complex64)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the channel pairs (0, 1), (2, 3), … of ``x`` [N, head_dim] by ``turns`` [N, head_dim / 2]."""
    pairs = torch.view_as_complex(x.reshape(x.shape[0], -1, 2))
    return torch.view_as_real(pairs * turns).reshape(x.shape)
