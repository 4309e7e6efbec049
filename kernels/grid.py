"""Token grids: video tokens as (T, H, W), flattened T-major, with text tokens before and after."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, SupportsIndex

from attnbench.kernels.errors import BadInput
from attnbench.kernels.told import quoted
from attnbench.kernels.tracing import constant

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_WANTED = "must be three positive whole numbers, as 21x45x80 or (21, 45, 80)"


def whole_number(value: object) -> int | None:
    """Return ``value`` as an int if it is a whole number of any kind, including numpy's, but not a truth value."""
    if isinstance(value, int):  # before the protocol check, which takes 20 times as long
        return None if isinstance(value, bool) else operator.index(value)
    if not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:  # for example for arrays with more than one element
        return None


@constant
def _sides(text: str) -> tuple[int, ...] | None:
    match = re.fullmatch(r"\s*(\d{1,9})\s*[x×]\s*(\d{1,9})\s*[x×]\s*(\d{1,9})\s*", text)
    sides = tuple(int(side) for side in match.groups()) if match else ()
    return sides if sides and all(sides) else None


@dataclass(frozen=True, slots=True)
class Grid:
    """Video tokens: ``t`` frames of ``h`` × ``w`` tokens, in T-major (raster) order.

    Raises:
        BadInput: if a side is not a positive integer.
    """

    t: int
    h: int
    w: int

    def __post_init__(self) -> None:
        for axis, side in zip("thw", self.shape, strict=True):
            number = whole_number(side)
            if number is None or number < 1:
                raise BadInput(f"grid {quoted(self.shape)} {_WANTED}")
            object.__setattr__(self, axis, number)

    @classmethod
    def of(cls, value: object) -> Grid:
        """Read a grid from a Grid, "21x45x80", or three integers."""
        if isinstance(value, Grid):
            return value
        if isinstance(value, str):
            sides = _sides(value)
            if sides is not None:
                return cls(*sides)
        elif isinstance(value, (tuple, list)) and len(value) == 3:
            return cls(*value)
        raise BadInput(f"grid {quoted(value)} {_WANTED}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, H, W)."""
        return (self.t, self.h, self.w)

    @property
    def tokens(self) -> int:
        """Number of video tokens."""
        return self.t * self.h * self.w

    def __str__(self) -> str:
        return f"{self.t}x{self.h}x{self.w}"


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole sequence: ``text[0]`` text tokens, the video tokens of ``grid``, ``text[1]`` text tokens.

    Raises:
        BadInput: if ``text`` is not two whole numbers of at least 0.
    """

    grid: Grid
    text: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        pair = self.text
        if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in pair):
            raise BadInput(f"text {quoted(pair)} must be two whole numbers: text tokens before and after the video")

    @property
    def tokens(self) -> int:
        """N: all tokens, text included."""
        return self.text[0] + self.grid.tokens + self.text[1]

    @property
    def numbers(self) -> tuple[tuple[int, int, int], tuple[int, int]]:
        """(T, H, W) and the text tokens, which identify a layout where results are remembered.

        They are plain numbers even while torch.compile traces, which may make them symbolic after it has seen two
        layouts.
        """
        index, (before, after) = operator.index, self.text
        return (index(self.grid.t), index(self.grid.h), index(self.grid.w)), (index(before), index(after))

    @property
    def few_text(self) -> tuple[int, int]:
        """The text tokens before and after, at most 5 each, for the small twin of a case."""
        return min(self.text[0], 5), min(self.text[1], 5)

    @property
    def video(self) -> slice:
        """The positions of the video tokens."""
        return slice(self.text[0], self.text[0] + self.grid.tokens)


@lru_cache(maxsize=32)
def coordinates(grid: Grid, device: torch.device) -> Tensor:
    """Return (t, h, w) of every video token, int64 [T·H·W, 3]."""
    import torch  # imported here, because listing shapes and methods needs grids but no tensors

    axes = [torch.arange(side, device=device) for side in grid.shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
