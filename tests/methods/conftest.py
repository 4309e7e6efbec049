"""Random grids, text and tensors for the methods, and where a token lies."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.grid import Grid, Layout


def draw_layouts(most: tuple[int, int, int] = (4, 5, 6), text: int = 2) -> st.SearchStrategy[Layout]:
    grids = st.builds(Grid, *(st.integers(1, side) for side in most))
    return st.builds(Layout, grids, st.tuples(st.integers(0, text), st.integers(0, text)))


def random_tensors(
    layout: Layout, *heads: int, batch: int = 1, head_dim: int = 4, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[Tensor]:
    """Gaussian tensors [batch, heads, N, head_dim], one for each number of heads, the same for the same seed."""
    random = torch.Generator().manual_seed(seed)
    shapes = [(batch, count, layout.tokens, head_dim) for count in heads]
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes]


def token_places(grid: Grid) -> list[tuple[int, int, int]]:
    return [(t, h, w) for t in range(grid.t) for h in range(grid.h) for w in range(grid.w)]


def mask_of_pairs(layout: Layout, keeps: Callable[[int, int], bool]) -> Tensor:
    """Which pairs are kept, bool [N, N]: text keeps all and is kept by all, two video tokens if ``keeps`` says so."""
    n, video = layout.tokens, range(layout.tokens)[layout.video]
    mask = torch.ones(n, n, dtype=torch.bool)
    for query in video:
        for key in video:
            mask[query, key] = keeps(query - video.start, key - video.start)
    return mask


@pytest.fixture(scope="session")
def layouts() -> Callable[..., st.SearchStrategy[Layout]]:
    return draw_layouts


@pytest.fixture(scope="session")
def tensors() -> Callable[..., list[Tensor]]:
    return random_tensors


@pytest.fixture(scope="session")
def places() -> Callable[[Grid], list[tuple[int, int, int]]]:
    return token_places


@pytest.fixture(scope="session")
def mask_where() -> Callable[[Layout, Callable[[int, int], bool]], Tensor]:
    return mask_of_pairs
