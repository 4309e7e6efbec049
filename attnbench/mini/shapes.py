"""Compute how much of each pixel an object covers: handwritten glyphs, and shapes by their signed distance."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

_EDGE = 2.5
"""Gain of a glyph's soft threshold. If a glyph pixel takes 4 to 5 pixels, the edge is about 2 pixels wide."""


def glyph_cover(glyph: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return how much of each position a glyph covers.

    Args:
        glyph: [B, 8, 8] from 0 to 1.
        x, y: [B, F, H, W], positions relative to the glyph's centre, in units in which its square reaches from -1 to 1.

    Returns:
        [B, F, H, W] from 0 to 1, antialiased.
    """
    padded = functional.pad(glyph, (1, 1, 1, 1))  # so that strokes at the border end softly
    places = torch.stack((x, y), dim=-1).flatten(1, 2) * (glyph.shape[-1] / padded.shape[-1])
    grey = functional.grid_sample(padded[:, None], places, mode="bicubic", align_corners=False)
    return ((grey.reshape(x.shape) - 0.5) * _EDGE + 0.5).clamp(0, 1)


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 1


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.85


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    # Equilateral, about its centroid, with a corner up: rows of a picture count downwards.
    return torch.maximum(x.abs() * (math.sqrt(3) / 2) - y / 2, y) - 0.5


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.75).abs() - 0.25


def _cross(x: Tensor, y: Tensor) -> Tensor:
    across = torch.maximum(x.abs() - 1, y.abs() - 0.33)
    upright = torch.maximum(x.abs() - 0.33, y.abs() - 1)
    return torch.minimum(across, upright)


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "ring": _ring,
    "cross": _cross,
}
"""Signed distance of a point (x, y) to the edge of each shape, negative inside.

Each shape lies in the square from -1 to 1.
"""


def shape_cover(name: str, x: Tensor, y: Tensor, pixel: Tensor) -> Tensor:
    """Return how much of each position a shape covers, [B, F, H, W] like x and y; ``pixel`` is the width of a pixel.

    Coordinates are those in which the shape's radius is 1.
    """
    return (0.5 - SHAPES[name](x, y) / pixel).clamp(0, 1)
