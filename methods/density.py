"""The settings that control the density of a method's plans, and their values for a given density."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.kernels.grid import Layout

_STEPS = 400


@dataclass(frozen=True)
class DensitySetting:
    """Settings that make a method keep more or less, if their values are not the density itself.

    Attributes:
        names: the settings. A sweep over density sets them, so users cannot.
        choose: (resolved settings, layout, density in (0, 1]) -> values for one or more of ``names`` that keep about
            that share of the pairs. A higher density must not keep less.
    """

    names: tuple[str, ...]
    choose: Callable[[Any, Layout, float], dict[str, Any]]


def share_of(blocks: int, density: float) -> int:
    """Return the whole number nearest to a share of ``blocks``, at least 1."""
    return max(1, min(blocks, round(density * blocks)))


def nearest(axes: Sequence[Sequence[tuple[int, float]]], density: float) -> tuple[int, ...]:
    """Choose a size for each axis so that the product of their densities is nearest to ``density``.

    Args:
        axes: the sizes of each axis and their densities, both ascending.
        density: in (0, 1].

    Only sizes that keep about the same fraction of each axis are combined. A fraction is raised in small steps, and the
    sizes just below and above it are tried on each axis.
    """
    best: tuple[float, tuple[int, ...]] | None = None
    for step in range(_STEPS + 1):
        fraction = step / _STEPS
        for combination in itertools.product(*(_around(sizes, fraction) for sizes in axes)):
            product = math.prod(kept for _, kept in combination)
            candidate = (abs(math.log(product / density)), tuple(size for size, _ in combination))
            if best is None or candidate < best:
                best = candidate
    assert best is not None
    return best[1]


def _around(sizes: Sequence[tuple[int, float]], fraction: float) -> list[tuple[int, float]]:
    below = [size for size in sizes if size[1] <= fraction]
    above = [size for size in sizes if size[1] >= fraction]
    return [*below[-1:], *above[:1]]
