"""Draw clips from a seed: a handwritten digit or a textured shape moves over a still background at a known velocity."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.mini.digits import Split, load_digits
from attnbench.mini.draws import uniform
from attnbench.mini.shapes import SHAPES, glyph_cover, shape_cover

CLASSES = (*(str(digit) for digit in range(10)), *SHAPES)
"""The classes, by label."""
DIRECTIONS = ("east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east")
"""The directions, by label: label × 45° from east, anticlockwise on the screen."""

_COMBINATIONS = len(CLASSES) * len(DIRECTIONS)
_STRIDE = 49
"""Coprime to the number of combinations: neighbours differ in class and direction, and 120 in a row hold each once."""
_JITTER = math.radians(6)
_NUMBERS = 32
_UNIT = 64
"""Size of clips for which the lengths below are given. They scale with the size."""


@dataclass(frozen=True, slots=True)
class Clips:
    """Clips, and everything that was drawn for them. Positions are in pixels, x to the right, y downwards.

    The centre of the first pixel is (0, 0).

    Attributes:
        video: float32 [B, 3, F, H, W] from -1 to 1.
        label: int64 [B], index into CLASSES.
        direction: int64 [B], index into DIRECTIONS.
        centre: float32 [B, F, 2], the object's centre (x, y) in each frame.
        velocity: float32 [B, 2], pixels a frame.
        radius: float32 [B], half the object's side.
        cover: float32 [B, F, H, W], how much of a pixel is the object, 0 to 1.
        glyph: int64 [B], place of the digit in scikit-learn's ``load_digits``; -1 for shapes.
    """

    video: Tensor
    label: Tensor
    direction: Tensor
    centre: Tensor
    velocity: Tensor
    radius: Tensor
    cover: Tensor
    glyph: Tensor


def labels_of(first: int, count: int) -> tuple[Tensor, Tensor]:
    """Return class and direction [count] of the clips from number ``first`` on. 120 in a row hold each pair once."""
    pair = (torch.arange(first, first + count) * _STRIDE) % _COMBINATIONS
    return pair % len(CLASSES), pair // len(CLASSES)


def make_clips(
    first: int,
    count: int,
    *,
    seed: int,
    split: Split = "train",
    frames: int = 16,
    size: int = 64,
    device: torch.device | str = "cpu",
) -> Clips:
    """Return the clips numbered ``first`` to ``first + count - 1`` of a seed and split.

    All random numbers are drawn on the CPU, so every device renders the same clips up to rounding. The splits share
    neither glyphs nor random numbers.

    Args:
        first, count: the numbers of the clips. Their classes and directions follow from their numbers.
        seed: with ``split``, ``first`` and ``count``, the seed of everything else.
        frames, size: a clip is ``frames`` frames of ``size`` × ``size`` pixels.
    """
    u = uniform((count, _NUMBERS), "clips", split, seed, first, count)
    draw = iter(u.unbind(1))
    label, direction = labels_of(first, count)
    scale, steps = size / _UNIT, frames - 1

    radius = _between(next(draw), 14, 19) * scale
    free = (size - 1) - 2 * radius
    speed = torch.minimum(_between(next(draw), 1, 2) * scale, free / max(steps, 1))
    angle = direction * (math.tau / len(DIRECTIONS)) + _between(next(draw), -_JITTER, _JITTER)
    velocity = torch.stack((angle.cos(), -angle.sin()), dim=1) * speed[:, None]
    slack = free[:, None] - velocity.abs() * steps  # how far the middle of the path may move on either axis
    middle = (size - 1) / 2 + (torch.stack((next(draw), next(draw)), dim=1) - 0.5) * slack
    centre = middle[:, None] + velocity[:, None] * (torch.arange(frames)[:, None] - steps / 2)

    side = torch.where(next(draw) < 0.5, -1.0, 1.0)[:, None]  # a dark object on a light background, or the reverse
    ground = side * _between(torch.stack([next(draw) for _ in range(3)], dim=1), 0.4, 0.9)
    paint = -side * _between(torch.stack([next(draw) for _ in range(3)], dim=1), 0.4, 0.9)
    ground_wave = _Wave.drawn(draw, 24, 60, scale)
    paint_wave = _Wave.drawn(draw, 6, 12, scale)
    ground_depth = torch.where(next(draw) < 0.5, 0.0, 0.1)  # half of the backgrounds are plain
    paint_depth = torch.where(label >= 10, 0.45, 0.0)

    glyph = _glyphs(label, next(draw), split)

    def there(x: Tensor) -> Tensor:
        return x.to(device)

    rows = torch.arange(size, device=device, dtype=torch.float32)
    y, x = rows[:, None].expand(size, size), rows[None].expand(size, size)
    dx = x - there(centre)[:, :, 0, None, None]
    dy = y - there(centre)[:, :, 1, None, None]
    cover = _cover(label, glyph, dx, dy, there(radius), split)
    ground_tone = there(ground_depth)[:, None, None] * ground_wave.to(device).at(x[None], y[None])
    paint_tone = 1 - there(paint_depth)[:, None, None, None] * (0.5 + 0.5 * paint_wave.to(device).at(dx, dy))
    still = (there(ground)[:, :, None, None] + ground_tone[:, None])[:, :, None]
    moving = there(paint)[:, :, None, None, None] * paint_tone[:, None]
    video = (still + (moving - still) * cover[:, None]).clamp(-1, 1)
    places = torch.where(glyph >= 0, load_digits(split).index[glyph.clamp(min=0)], -1)
    return Clips(
        video, there(label), there(direction), there(centre), there(velocity), there(radius), cover, there(places)
    )


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


@dataclass(frozen=True, slots=True)
class _Wave:
    """A sinusoid for each clip: pixels in a cycle, angle and phase, each [B]."""

    length: Tensor
    angle: Tensor
    phase: Tensor

    @classmethod
    def drawn(cls, draw: Iterator[Tensor], low: float, high: float, scale: float) -> _Wave:
        """Make waves from three random numbers each, with lengths between ``low`` and ``high``."""
        return cls(_between(next(draw), low, high) * scale, next(draw) * math.tau, next(draw) * math.tau)

    def to(self, device: torch.device | str) -> _Wave:
        """Return the wave on another device."""
        return _Wave(self.length.to(device), self.angle.to(device), self.phase.to(device))

    def at(self, x: Tensor, y: Tensor) -> Tensor:
        """Return its values at positions [B or 1, ..., H, W], between -1 and 1."""
        length, angle, phase = (part.view(-1, *[1] * (x.dim() - 1)) for part in (self.length, self.angle, self.phase))
        return torch.sin((x * angle.cos() + y * angle.sin()) * (math.tau / length) + phase)


def _glyphs(label: Tensor, u: Tensor, split: Split) -> Tensor:
    """Return the index of a glyph in the split for each digit, int64 [B]; -1 for shapes."""
    digits = load_digits(split)
    chosen = torch.full_like(label, -1)
    for digit in range(10):
        mine = label == digit
        places = digits.of(digit)
        chosen[mine] = places[(u[mine] * len(places)).long()]
    return chosen


def _cover(label: Tensor, glyph: Tensor, dx: Tensor, dy: Tensor, radius: Tensor, split: Split) -> Tensor:
    """Return how much of each pixel the object covers, [B, F, H, W]. Labels and glyphs are on the CPU."""
    cover = torch.empty_like(dx)
    reach = radius[:, None, None, None]
    rows = (glyph >= 0).nonzero().squeeze(1)
    if len(rows):
        images = load_digits(split).images[glyph[rows]].to(dx.device)
        on = rows.to(dx.device)
        cover[on] = glyph_cover(images, dx[on] / reach[on], dy[on] / reach[on])
    for place, name in enumerate(SHAPES, start=10):
        rows = (label == place).nonzero().squeeze(1)
        if len(rows):
            on = rows.to(dx.device)
            cover[on] = shape_cover(name, dx[on] / reach[on], dy[on] / reach[on], 1 / reach[on])
    return cover
