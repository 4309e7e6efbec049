"""Rotary embedding in time, height and width: each axis turns its own share of a head's channels, as in Wan."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from attnbench.kernels.grid import Grid, coordinates

_BASE = 100.0
"""Base of the angles. Wan's is 10,000, for longer axes; with it, most channels hardly turn over 8 to 32 tokens."""


def shares(head_dim: int) -> tuple[int, int, int]:
    """Return the number of channels for time, height and width: 24, 20 and 20 of 64."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


@lru_cache(maxsize=8)
def rotations(grid: Grid, head_dim: int, device: torch.device, stretch: int = 1) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of every token's angles, float32 [N, head_dim / 2].

    With a ``stretch`` of 2, each token stands in the middle of 2 × 2 × 2 tokens of an unstretched grid.
    """
    places = coordinates(grid, torch.device("cpu")).double() * stretch + (stretch - 1) / 2
    angles = []
    for axis, share in enumerate(shares(head_dim)):
        rates = _BASE ** -(torch.arange(0, share, 2, dtype=torch.float64) / share)
        angles.append(places[:, axis, None] * rates)
    joined = torch.cat(angles, dim=1)
    return joined.cos().float().to(device), joined.sin().float().to(device)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn neighbouring pairs of channels of x [..., N, head_dim] by their token's angles; float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1).flatten(-2)
