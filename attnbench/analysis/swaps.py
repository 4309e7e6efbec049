"""Replacements of attention by something that does not look at q and k: with which map, and where.

The map becomes the identity, of entropy 0, so that the output is v; or uniform, of entropy ln N, so that every output
is the mean of v.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from attnbench.kernels.grid import Grid
from attnbench.mini.model import Attend


def identity(v: Tensor) -> Tensor:
    """Return v: each token attends to itself alone."""
    return v


def uniform(v: Tensor) -> Tensor:
    """Return the mean of v [B, heads, N, head_dim] over its tokens: each token attends to all alike."""
    return v.mean(dim=2, keepdim=True).expand_as(v)


MAPS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({"identity": identity, "uniform": uniform})
"""What replaces attention, by name."""


@dataclass(frozen=True, slots=True)
class Swap:
    """A replacement of attention.

    Attributes:
        name: of MAPS.
        layer: in which; None for all.
        step: of denoising, in which; None for all.
    """

    name: str
    layer: int | None = None
    step: int | None = None

    def covers(self, layer: int, step: int | None) -> bool:
        """Return whether attention of a layer in a step is replaced."""
        return self.layer in (None, layer) and self.step in (None, step)

    @property
    def words(self) -> str:
        """As "uniform in layer 3, step 0"."""
        layer = "all layers" if self.layer is None else f"layer {self.layer}"
        return f"{self.name} in {layer}" + ("" if self.step is None else f", step {self.step}")


def swaps_of(layers: Sequence[int], steps: Sequence[int]) -> list[Swap]:
    """Return each replacement in all layers, in each layer, and in each layer of each of the steps alone."""
    return [
        swap
        for name in MAPS
        for swap in (
            Swap(name),
            *(Swap(name, layer) for layer in layers),
            *(Swap(name, layer, step) for layer in layers for step in steps),
        )
    ]


def swapped(swaps: Sequence[Swap], own: Attend) -> Attend:
    """Return the self-attention of a batch whose items have one replacement each, and ``own`` where it does not apply.

    It takes q, k and v [B, heads, N, head_dim], where B is the number of replacements.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, layer: int, step: int | None) -> Tensor:
        def by(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return MAPS[name](v) if name else own(q, k, v, grid=grid, layer=layer, step=step)

        names = [swap.name if swap.covers(layer, step) else "" for swap in swaps]
        if len(set(names)) == 1:
            return by(names[0], q, k, v)
        output = torch.empty_like(q)
        for name in set(names):
            items = torch.tensor([item for item, its in enumerate(names) if its == name], device=q.device)
            output[items] = by(name, q[items], k[items], v[items])
        return output

    return attend
