"""Modelled inputs: q, k and v with the structure of a real video, by fixed steps (docs/inputs.md)."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from attnbench.inputs.clip import Window, clip_path, features, is_replayed, patches, windows
from attnbench.inputs.rope import frequencies, rotate, rotations
from attnbench.inputs.seeds import SETS, normal
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout

RANK = 8
"""Number of directions through which a head sees the content, so that heads look at different things."""

SHARED = 0.7
"""Correlation of the directions of a head's q, and of its k, with common directions. With each other it is SHARED²."""

POSITION = (0.1, 0.8)
"""Smallest and largest share of position in a head's q and k. Content has the rest."""

GAIN = (1.0, 2.0)
"""Smallest and largest logit gain of a head. Logits reach at most gain · sqrt(head_dim)."""

AXIS_SPREAD = 0.5
"""Standard deviation of the logarithm of a head's weight for position in t, in h and in w."""


@dataclass(frozen=True, slots=True)
class Character:
    """What distinguishes a head from the others: its share of position (0 to 1) and its logit gain."""

    position: float
    gain: float


def character(head: int) -> Character:
    """Return the character of a head.

    Heads fill the rectangle ``POSITION`` × ``GAIN`` evenly, whatever their number. They are the points of the
    two-dimensional additive recurrence whose steps are the first two powers of the inverse plastic number.
    """
    plastic = 1.324717957244746
    along_position, along_gain = ((0.5 + (head + 1) / plastic**power) % 1 for power in (1, 2))
    return Character(
        position=POSITION[0] + (POSITION[1] - POSITION[0]) * along_position,
        gain=GAIN[0] * (GAIN[1] / GAIN[0]) ** along_gain,
    )


@dataclass(frozen=True, slots=True, eq=False)
class VideoSource:
    """q, k and v of a video for one layout, float32 [N, head_dim] for each head.

    ``content`` is [T·H·W, features], ``turns`` is the rotary embedding, and ``group`` is the number of query heads that
    share a kv head. A query head shares content directions, position and character with its kv head.
    """

    layout: Layout
    content: Tensor
    turns: Tensor
    head_dim: int
    group: int
    seed: int

    def q(self, batch: int, head: int) -> Tensor:
        """Return the queries of one head."""
        return self._queries_or_keys(batch, head // self.group, head, "q")

    def k(self, batch: int, kv_head: int) -> Tensor:
        """Return the keys of one kv head."""
        return self._queries_or_keys(batch, kv_head, kv_head, "k")

    def v(self, batch: int, kv_head: int) -> Tensor:
        """Return the values of one kv head: content alone, with RMS 1."""
        weights = normal((self.content.shape[1], self.head_dim), self.seed, batch, kv_head, "v")
        return self._with_text(_unit(self.content @ weights), 1.0, batch, kv_head, "v")

    def _queries_or_keys(self, batch: int, kv_head: int, head: int, part: str) -> Tensor:
        width = self.content.shape[1]
        shared = normal((width, RANK), self.seed, batch, kv_head, "directions")
        own = normal((width, RANK), self.seed, batch, head, part, "directions")
        mix = normal((RANK, self.head_dim), self.seed, batch, kv_head, "mix")
        content = _unit(self.content @ (SHARED * shared + math.sqrt(1 - SHARED**2) * own) @ mix)
        trait = character(kv_head)
        position = position_vector(self.layout.grid, self.head_dim, self.seed, batch, kv_head)
        x = math.sqrt(1 - trait.position) * content + math.sqrt(trait.position) * position
        x = math.sqrt(trait.gain) * x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6)
        return self._with_text(rotate(x, self.turns), math.sqrt(trait.gain), batch, head, part)

    def _with_text(self, video: Tensor, rms: float, batch: int, head: int, part: str) -> Tensor:
        before, after = self.layout.text
        text = rms * normal((before + after, self.head_dim), self.seed, batch, head, part, "text")
        return torch.cat([text[:before], video, text[before:]])


def position_vector(grid: Grid, head_dim: int, seed: int, batch: int, kv_head: int) -> Tensor:
    """Return the vector with RMS 1 that a head adds to every q and k, float32 [head_dim].

    After rotation, its product with itself is a sum of cosines of the distance, so the head attends to nearby tokens.
    It is Gaussian, with a weight for each axis, in the pairs that turn by at least one radian over the grid, and 0 in
    the slower ones.
    """
    axis_weights = (AXIS_SPREAD * normal((3,), seed, batch, kv_head, "axes")).exp()
    by_pair = [
        weight * (frequency * side >= 1)
        for weight, frequency, side in zip(axis_weights, frequencies(head_dim), grid.shape, strict=True)
    ]
    return _unit(torch.cat(by_pair).repeat_interleave(2) * normal((head_dim,), seed, batch, kv_head, "position"))


def video_source(
    path: Path | None, layout: Layout, *, head_dim: int, group: int, seed: int, number: int = 0
) -> VideoSource:
    """Read a video, or the bundled one if ``path`` is None, for ``layout``.

    Args:
        path: of the video. The bundled one is played forward and back where it is too short for the grid.
        layout: grid and text tokens.
        head_dim: channels of a head, an even number.
        group: query heads of a kv head.
        seed: of the heads' directions.
        number: of the input set, below SETS; each takes another window of the video.

    Raises:
        BadInput: if the video cannot be used, is too short for the grid or has a single colour, or ``head_dim`` is odd.
    """
    turns = rotations(layout.grid, head_dim)
    with clip_path(path) as readable:
        try:
            status = os.stat(readable)
            replay = is_replayed(path, layout.grid)
            content = _content(readable, (status.st_mtime_ns, status.st_size), layout.grid, number, replay)
        except OSError as error:
            raise BadInput(f"video {str(readable)!r} cannot be read: {error.strerror}") from error
    if not bool(content.any()):
        raise BadInput(
            f"video {str(path or 'bundled')!r} looks the same at every token of grid {layout.grid}: give another video"
        )
    return VideoSource(layout=layout, content=content, turns=turns, head_dim=head_dim, group=group, seed=seed)


@lru_cache(SETS)  # every head is made from it, and once more when the number of heads is known
def _content(path: Path, changed: tuple[int, int], grid: Grid, number: int, replay: bool) -> Tensor:
    """Return the features [T·H·W, F] of one window of a video; ``changed`` tells files of one name apart."""
    window = Window() if number == 0 else windows(path, grid, SETS)[number]
    return features(patches(path, grid, window, replay=replay))


def _unit(x: Tensor) -> Tensor:
    """Scale ``x`` to RMS 1 over all its numbers; zeros stay zeros."""
    return x / x.double().square().mean().sqrt().clamp_min(1e-6).float()
