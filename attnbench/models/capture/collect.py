"""Collect q, k and v of chosen layers and steps while a clip is being made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout

Qkv = tuple[Tensor, Tensor, Tensor]
"""q, k and v, each [1, heads, N, head_dim]."""


class Complete(Exception):
    """Raised inside the model when everything has been collected, so that the rest of the clip is not made."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """A layer in a denoising step, both counted from 0."""

    layer: int
    step: int

    def __str__(self) -> str:
        return f"layer{self.layer}.step{self.step}"


def points_of(layers: Iterable[int], steps: Iterable[int]) -> tuple[Point, ...]:
    """Return every layer in every step, each once, in order."""
    return tuple(sorted({Point(layer, step) for layer in layers for step in steps}))


class Taker(Protocol):
    """What is given q, k and v of the calls that it asks for."""

    def begin(self, layer: int, step: int) -> bool:
        """Return whether the call of ``layer`` that begins now is wanted.

        Raises:
            Complete: if no other call is.
        """
        ...

    def take(
        self, q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, text: tuple[int, int] = (0, 0), layer: int, step: int
    ) -> None:
        """Take q, k and v [B, heads, N, head_dim] of a call that ``begin`` asked for."""
        ...


class Collector:
    """Collects q, k and v of the first call at each point, from its last batch item.

    With classifier-free guidance, that is the conditional half: it comes last if both halves are one batch, and first
    if they are two calls.

    Attributes:
        found: the tensors collected so far, on the CPU in the model's dtype.
        layouts: the token grid and text tokens of each.
    """

    def __init__(
        self, points: Iterable[Point], *, video_only: bool = False, room: Callable[[int], object] = lambda size: None
    ) -> None:
        """Start with nothing.

        Args:
            points: the points to collect.
            video_only: leave joint text tokens out.
            room: called once, after the first call was collected, with the bytes that all points will take. It raises
                if there is no space for them.
        """
        self.found: dict[Point, Qkv] = {}
        self.layouts: dict[Point, Layout] = {}
        self._points = frozenset(points)
        self._begun: set[Point] = set()
        self._video_only, self._room = video_only, room

    def begin(self, layer: int, step: int) -> bool:
        """Return whether the call of ``layer`` that begins now must be collected.

        Raises:
            Complete: if nothing is left to collect.
        """
        if len(self._begun) == len(self._points):
            raise Complete
        point = Point(layer, step)
        if point in self._begun or point not in self._points:
            return False
        self._begun.add(point)
        return True

    def take(
        self, q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, text: tuple[int, int] = (0, 0), layer: int, step: int
    ) -> None:
        """Keep q, k and v [B, heads, N, head_dim] of a call that ``begin`` asked for, from the last batch item."""
        point, first = Point(layer, step), not self.found
        kept = Layout(grid, text).video if self._video_only else slice(None)
        self.layouts[point] = Layout(grid, (0, 0) if self._video_only else text)
        self.found[point] = (_keep(q, kept), _keep(k, kept), _keep(v, kept))
        if first:
            self._room(len(self._points) * sum(x.numel() * x.element_size() for x in self.found[point]))

    def layout(self) -> Layout:
        """Return the layout of everything collected.

        Raises:
            BadInput: if a point is missing, or if points differ in their tokens.
        """
        if missing := sorted(self._points - self.found.keys()):
            raise BadInput(f"the clip was made without a call of {missing[0]}: it has fewer layers or steps")
        first, *others = set(self.layouts.values())
        if others:
            raise BadInput(
                f"the calls have {first.text} and {others[0].text} text tokens on the grids {first.grid} and "
                f"{others[0].grid}: capture them one by one, or give --video-only"
            )
        return first

    def refuse_overflow(self) -> None:
        """Refuse collected tensors that hold NaN or Inf, because nothing can be measured on them.

        Raises:
            BadInput: naming the first such tensor, its layer and its step.
        """
        for point in sorted(self.found):
            for name, tensor in zip("qkv", self.found[point], strict=True):
                if not _finite(tensor):
                    raise BadInput(
                        f"{name} of {point} holds NaN or Inf as {tensor.dtype}: the model overflowed; try a dtype of "
                        "wider range"
                    )


def _finite(x: Tensor) -> bool:
    return all(bool(torch.isfinite(head).all()) for item in x for head in item)  # not all at once, to save memory


def _keep(x: Tensor, tokens: slice) -> Tensor:
    return x[-1:, :, tokens].detach().to("cpu", copy=True).contiguous()
