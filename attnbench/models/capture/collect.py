"""Collect q, k and v of chosen layers and steps while a clip is being made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout

Qkv = tuple[Tensor, Tensor, Tensor]
"""q, k and v, each [1, heads, N, head_dim]."""


class Complete(Exception):
    """Raised inside the model once everything was collected: the rest of the clip need not be made."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """A layer in a denoising step, both from 0."""

    layer: int
    step: int

    def __str__(self) -> str:
        return f"layer{self.layer}.step{self.step}"


def points_of(layers: Iterable[int], steps: Iterable[int]) -> tuple[Point, ...]:
    """Return every layer in every step, each once, in order."""
    return tuple(sorted({Point(layer, step) for layer in layers for step in steps}))


class Collector:
    """Takes q, k and v of the first call at each point, of its last batch item.

    With classifier-free guidance that is the conditional half: where both halves are one batch it comes last, and where
    they are two calls it comes first.

    Attributes:
        found: what was collected, on the CPU in the model's dtype.
        layouts: token grid and text of each.
    """

    def __init__(
        self, points: Iterable[Point], *, video_only: bool = False, room: Callable[[int], object] = lambda size: None
    ) -> None:
        """Start with nothing.

        Args:
            points: what to collect.
            video_only: leave joint text tokens out.
            room: called once, after the first call was collected, with the bytes that all points will take; raises if
                there is no place for them.
        """
        self.found: dict[Point, Qkv] = {}
        self.layouts: dict[Point, Layout] = {}
        self._points = frozenset(points)
        self._begun: set[Point] = set()
        self._video_only, self._room = video_only, room

    def begin(self, layer: int, step: int) -> bool:
        """Say whether the call of ``layer`` that comes now is to be collected.

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
        """Keep q, k and v [B, heads, N, head_dim] of a call that ``begin`` asked for; of several, those of the last."""
        point, first = Point(layer, step), not self.found
        kept = Layout(grid, text).video if self._video_only else slice(None)
        self.layouts[point] = Layout(grid, (0, 0) if self._video_only else text)
        self.found[point] = (_keep(q, kept), _keep(k, kept), _keep(v, kept))
        if first:
            self._room(len(self._points) * sum(x.numel() * x.element_size() for x in self.found[point]))

    def layout(self) -> Layout:
        """Return the layout of everything collected.

        Raises:
            BadInput: if a point is missing, or one has other tokens than another.
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
        """Refuse what was collected if it holds NaN or Inf: nothing can be measured on that.

        Raises:
            BadInput: naming the first tensor and its layer and step.
        """
        for point in sorted(self.found):
            for name, tensor in zip("qkv", self.found[point], strict=True):
                if not _finite(tensor):
                    raise BadInput(
                        f"{name} of {point} holds NaN or Inf as {tensor.dtype}: the model overflowed; try a dtype of "
                        "wider range"
                    )


def _finite(x: Tensor) -> bool:
    return all(bool(torch.isfinite(head).all()) for item in x for head in item)  # not all at once: it takes memory


def _keep(x: Tensor, tokens: slice) -> Tensor:
    return x[-1:, :, tokens].detach().to("cpu", copy=True).contiguous()
