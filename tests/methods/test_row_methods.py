"""Methods in which blocks of queries choose blocks of keys by their means, restated with lists in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Layout

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py
Row = list[float]
Block = tuple[int, ...]
CLOSE = 1e-9


class Close(Exception):
    """Rounding could decide otherwise."""


def best_first(row: Row) -> list[int]:
    order = sorted(range(len(row)), key=lambda j: (-row[j], j))
    if any(0 < row[a] - row[b] < CLOSE for a, b in pairwise(order)):
        raise Close
    return order


def shares(row: Row, head_dim: int) -> Row:
    powers = [math.exp((x - max(row)) / math.sqrt(head_dim)) for x in row]
    return [x / sum(powers) for x in powers]


def up_to(row: Row, mass: float, crossing_in: bool) -> set[int]:
    """The largest shares up to a mass, with or without the one that crosses it."""
    kept, total = set(), 0.0
    for j in best_first(row):
        if abs(total - mass) < CLOSE or abs(total + row[j] - mass) < CLOSE:
            raise Close
        if (total if crossing_in else total + row[j]) > mass and mass < 1:
            break
        kept.add(j)
        total += row[j]
    return kept


def nabla(row: Row, own: int, places: list[Block], head_dim: int, mass: float | None, window: Block | None) -> set[int]:
    kept = set() if mass is None else up_to(shares(row, head_dim), mass, crossing_in=True)
    if window is not None:
        kept |= {
            j for j, place in enumerate(places)
            if all(abs(a - b) <= side // 2 for a, b, side in zip(place, places[own], window, strict=True))
        }  # fmt: skip
    return kept


def longcat(
    row: Row, own: int, places: list[Block], head_dim: int, chunk: Block, density: float | None, mass: float | None
) -> set[int]:
    kept = set() if density is None else set(best_first(row)[: math.floor(density * len(row))])
    return kept if mass is None else kept | up_to(shares(row, head_dim), mass, crossing_in=False)


def blocks_of(layout: Layout, block: Block, places: list[Block]) -> list[Block]:
    """Where the block of each video token lies."""
    return [tuple(x // size for x, size in zip(place, block, strict=True)) for place in places]


def expected_mask(
    layout: Layout, q: Tensor, k: Tensor, block: Block, rule: Callable[..., set[int]], tokens: list[Block],
    mask_where: Helper, **settings: Any,
) -> Tensor:  # fmt: skip
    """The mask of every head [H, N, N]; text is dense."""
    block_of = blocks_of(layout, block, tokens)
    places = sorted(set(block_of))
    number = [places.index(place) for place in block_of]
    masks = []
    for h in range(q.shape[1]):
        means = []
        for x in (q[0, h], k[0, h * k.shape[1] // q.shape[1]]):
            video = x[layout.video]
            means.append([video[[i for i, n in enumerate(number) if n == b]].mean(0) for b in range(len(places))])
        rows = [[float(a @ b) for b in means[1]] for a in means[0]]
        kept = [rule(row, own, places, q.shape[3], **settings) for own, row in enumerate(rows)]
        masks.append(mask_where(layout, lambda i, j, kept=kept: number[j] in kept[number[i]]))
    return torch.stack(masks)


FRACTIONS = st.sampled_from([0.2, 0.45, 0.7, 1.0])
SIDES = st.tuples(*[st.integers(1, 3)] * 3)


@given(
    data=st.data(),
    mass=st.one_of(st.none(), FRACTIONS),
    window=st.one_of(st.none(), st.tuples(*[st.integers(1, 4)] * 3)),
)
def test_nabla(
    data: st.DataObject, mass: float | None, window: Block | None, layouts: Helper, tensors: Helper, places: Helper,
    mask_where: Helper,
) -> None:  # fmt: skip
    assume(mass is not None or window is not None)
    layout = data.draw(layouts(most=(3, 11, 18)))
    q, k = tensors(layout, 2, 1)
    settings = {"mass": mass, "window": window}
    plan = attnbench.select(q, k, method="nabla", grid=layout.grid, text=layout.text, **settings)
    try:
        expected = expected_mask(layout, q, k, (1, 8, 8), nabla, places(layout.grid), mask_where, **settings)
    except Close:
        assume(False)
    assert torch.equal(plan.token_mask()[0], expected)


@given(data=st.data(), chunk=SIDES, density=st.one_of(st.none(), FRACTIONS), mass=st.one_of(st.none(), FRACTIONS))
def test_longcat(
    data: st.DataObject, chunk: Block, density: float | None, mass: float | None, layouts: Helper, tensors: Helper,
    places: Helper, mask_where: Helper,
) -> None:  # fmt: skip
    assume(density is not None or mass is not None)
    layout = data.draw(layouts(most=(4, 5, 6)))
    chunk = tuple(min(a, b) for a, b in zip(chunk, layout.grid.shape, strict=True))
    q, k = tensors(layout, 2, 1)
    settings = {"chunk": chunk, "density": density, "mass": mass}
    plan = attnbench.select(q, k, method="longcat-bsa", grid=layout.grid, text=layout.text, **settings)
    try:
        expected = expected_mask(layout, q, k, chunk, longcat, places(layout.grid), mask_where, **settings)
    except Close:
        assume(False)
    assert torch.equal(plan.token_mask()[0], expected)


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("nabla", {"mass": None}, "mass is None and window is None; give at least one"),
        ("nabla", {"mass": 0}, "mass is 0; it must be a number above 0 and at most 1"),
        ("nabla", {"window": (3, 3)}, r"window is \(3, 3\); it must be 3 whole numbers"),
        ("longcat-bsa", {"density": None}, "density is None and mass is None; give at least one"),
        ("longcat-bsa", {"density": 1.5}, "density is 1.5; it must be a number above 0 and at most 1"),
        ("longcat-bsa", {"mass": "all"}, "mass is 'all'; it must be a number"),
        ("longcat-bsa", {"chunk": (4, 4, 5)}, r"chunk is \(4, 4, 5\); it must fit into the 4 × 4 × 4 tokens"),
    ],
)
def test_refusals(method: str, settings: dict[str, Any], words: str) -> None:
    x = torch.zeros(1, 1, 64, 4)
    with pytest.raises(BadInput, match=words):
        attnbench.select(x, x, method=method, grid=(4, 4, 4), **settings)


def test_a_row_that_keeps_nothing_gives_zeros() -> None:
    x = torch.randn(3, 1, 1, 48, 4, generator=torch.Generator().manual_seed(0))
    where: dict[str, Any] = {"method": "longcat-bsa", "grid": (3, 4, 4), "chunk": (1, 2, 2), "density": 0.05}
    out, lse = attnbench.attention(*x, **where, return_lse=True)
    assert bool((out == 0).all())
    assert bool((lse == -torch.inf).all())
