"""Cases that are small enough to draw token by token, for every method and each of its kinds of layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.plan import Plan
from attnbench.methods.base import Call, Method
from attnbench.methods.draw import MAX_TOKENS, check_small
from attnbench.methods.per_head import check_per_head, settings_of_heads
from attnbench.methods.planning import make_plan
from attnbench.methods.registry import find_method, make_settings

SMALL_GRID = Grid(6, 8, 12)
USUAL_GRID = Grid(21, 30, 52)  # Wan 2.1: 81 frames of 480p
USUAL_LAYERS = 30


@dataclass(frozen=True)
class Example:
    """A case that is small enough to draw.

    Attributes:
        method: the method whose plans it shows.
        layer: the layer of the method.
        grid: token grid, at most 4,096 tokens.
        settings: the settings that are given to the method.
        layers: how many kinds of layers the method has.
        scaled: whether the method itself reduced the grid and the settings.
    """

    method: Method
    layer: int
    grid: Grid
    settings: Mapping[str, Any] = field(default_factory=dict)
    layers: int = 1
    scaled: bool = False

    @property
    def name(self) -> str:
        """The method, and the layer if the method's layers differ."""
        return self.method.name if self.layers == 1 else f"{self.method.name} · layer {self.layer}"

    @property
    def resolved(self) -> dict[str, Any]:
        """The settings, with those that the method fills in for the grid."""
        return dataclasses.asdict(_resolved(self.method, self.grid, self.settings))

    def plan(self, heads: int = 1, seed: int = 0) -> Plan:
        """Return what the method keeps for ``smooth_inputs``.

        Raises:
            BadInput: if the grid is over 4,096 tokens, or the method does not take the settings.
        """
        layout = Layout(self.grid)
        check_small(layout)
        q, k = _inputs_of(self.grid, heads, seed)
        given = settings_of_heads(self.method, self.resolved, slice(0, heads))
        settings = _resolved(self.method, self.grid, given)
        check_per_head(self.method, settings, heads)
        with torch.no_grad():
            call = Call(layout, self.layer, v=k.flip(-1) if self.method.needs_v else None)
            if (cycle := self.method.cycle_of(settings, self.layer)) is not None:
                for step in cycle.warm:
                    made = make_plan(self.method, settings, q, k, dataclasses.replace(call, step=step))
                    call = dataclasses.replace(call, state=made.state)
                # A state that only attention could make is left out, and the call stands alone.
                call = dataclasses.replace(call, step=None if call.state is None else cycle.steady)
            plan = make_plan(self.method, settings, q, k, call)
        plan.check()
        return plan


def examples(
    method: str | Method, grid: Grid | None = None, layer: int | None = None, settings: Mapping[str, Any] | None = None
) -> list[Example]:
    """Return what to draw of ``method``: one example for each kind of layer, or for ``layer`` alone.

    The default grid is ``SMALL_GRID``. If the method's defaults keep every pair there, for example because a tile is as
    large as the grid, the example is the method's twin of its defaults on ``USUAL_GRID``, provided that it drops
    something.

    Raises:
        BadInput: for a method or setting that is not known, or a grid over 4,096 tokens.
    """
    chosen, given = find_method(method), dict(settings or {})
    check_small(Layout(grid or SMALL_GRID))
    kinds = chosen.distinct_layers(_resolved(chosen, grid or SMALL_GRID, given), USUAL_LAYERS)
    found = [
        Example(chosen, each, grid or SMALL_GRID, given, len(kinds)) for each in (kinds if layer is None else (layer,))
    ]
    return found if grid or given else [_telling(example) for example in found]


@lru_cache(maxsize=4)
def _inputs_of(grid: Grid, heads: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return ``smooth_inputs``, made once for all methods that are drawn on a grid."""
    return smooth_inputs(grid, heads, seed=seed)


def smooth_inputs(grid: Grid, heads: int = 1, head_dim: int = 32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return seeded q and k, float32 [1, heads, T·H·W, head_dim], that are alike for tokens near each other.

    In white noise, methods that choose by content have nothing to choose. Here, every feature is Gaussian noise that is
    blurred over the grid, and k is q with a little noise added, so a query scores its neighbours and similar tokens
    high.
    """
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.randn(heads, head_dim, *grid.shape, generator=generator, dtype=torch.float64)
    for axis, side in enumerate(grid.shape):
        place = torch.arange(side, dtype=torch.float64)
        blur = torch.exp(-(((place[:, None] - place) / max(1.0, side / 6)) ** 2) / 2)
        blur = blur / blur.pow(2).sum(1, keepdim=True).sqrt()
        smooth = torch.movedim(torch.movedim(smooth, 2 + axis, -1) @ blur.T, -1, 2 + axis)
    smooth = 1.5 * smooth.reshape(heads, head_dim, -1).transpose(1, 2).contiguous()
    own = torch.randn(smooth.shape, generator=generator, dtype=torch.float64)
    return smooth.float()[None], (smooth + 0.3 * own).float()[None]


def _telling(example: Example) -> Example:
    """Return ``example``, or the method's twin if ``example`` keeps every pair and the twin does not."""
    method, usual = example.method, Layout(USUAL_GRID)
    if method.twin is None or example.plan().density < 1:
        return example
    settings, layout = method.twin(_resolved(method, USUAL_GRID, {}), usual, example.layer)
    given = {part.name: getattr(settings, part.name) for part in dataclasses.fields(settings)}
    twin = dataclasses.replace(example, grid=layout.grid, settings=given, scaled=True)
    return twin if layout.tokens <= MAX_TOKENS and twin.plan().density < 1 else example


def _resolved(method: Method, grid: Grid, settings: Mapping[str, Any]) -> Any:
    return method.resolve(make_settings(method, settings), Layout(grid))
