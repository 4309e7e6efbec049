"""VMoBA restated pair by pair in float64. Random scores do not tie."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attnbench
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import get_method

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

Partition = tuple[int, tuple[int, int], tuple[int, int, int]]
Pairs = set[tuple[int, int]]


def block_numbers(grid: Grid, partition: Partition, layer: int, places: list[tuple[int, int, int]]) -> list[int]:
    """The block of each token, numbered from 0 in T-major order of the blocks: layers take 1-D, 2-D, 3-D in turn."""
    frames, (patch_h, patch_w), cuboid = partition
    size = [(frames, grid.h, grid.w), (grid.t, patch_h, patch_w), cuboid][layer % 3]
    cells = [tuple(x // s for x, s in zip(place, size, strict=True)) for place in places]
    number = {cell: i for i, cell in enumerate(sorted(set(cells)))}
    return [number[cell] for cell in cells]


def selected(scores: list[list[float]], own: list[int], select: str, scope: str, threshold: float, topk: int) -> Pairs:
    """The (query, block) pairs that one head keeps."""
    n, blocks = len(scores), len(scores[0])
    kept = set(enumerate(own))
    every = [(i, j) for i in range(n) for j in range(blocks)]
    rivalries = [every] if scope == "head" else [[pair for pair in every if pair[0] == query] for query in range(n)]
    for rivalry in rivalries:
        score = {(i, j): scores[i][j] for i, j in rivalry}
        ranking = sorted((pair for pair in rivalry if pair not in kept), key=lambda pair: -score[pair])
        if select == "topk":
            kept.update(ranking[: (topk - 1) * len({query for query, _ in rivalry})])
            continue
        low, high = min(score.values()), max(score.values())
        normal = {pair: (x - low) / (high - low) if high > low else 1.0 for pair, x in score.items()}
        total = sum(normal.values())
        missing = threshold - sum(normal[pair] for pair in rivalry if pair in kept) / total
        reached = 0.0
        for place, pair in enumerate(ranking):
            if place > 0 and reached >= missing:
                break
            kept.add(pair)
            reached += normal[pair] / total
    return kept


@settings(max_examples=75)
@given(
    data=st.data(),
    layer=st.integers(0, 5),
    partition=st.tuples(st.integers(1, 4), st.tuples(*[st.integers(1, 4)] * 2), st.tuples(*[st.integers(1, 4)] * 3)),
    select=st.sampled_from(["threshold", "topk"]),
    scope=st.sampled_from(["head", "query"]),
    threshold=st.sampled_from([0.05, 0.25, 0.6, 0.9]),
    topk=st.integers(1, 6),
    heads=st.sampled_from([(2, 1), (2, 2)]),
)
def test_against_the_rule_pair_by_pair(
    data: st.DataObject, layer: int, partition: Partition, select: str, scope: str, threshold: float, topk: int,
    heads: tuple[int, int], layouts: Helper, tensors: Helper, places: Helper, mask_where: Helper,
) -> None:  # fmt: skip
    layout = data.draw(layouts(most=(4, 4, 5)))
    q, k = tensors(layout, *heads, seed=data.draw(st.integers(0, 99)))
    plan = attnbench.select(
        q, k, method="vmoba", grid=layout.grid, text=layout.text, layer=layer, partition=partition, select=select,
        scope=scope, threshold=threshold, topk=topk,
    )  # fmt: skip
    mask, block = plan.token_mask(), block_numbers(layout.grid, partition, layer, places(layout.grid))
    for h in range(2):
        queries, keys = q[0, h, layout.video], k[0, h * heads[1] // heads[0], layout.video]
        members = [[i for i, number in enumerate(block) if number == j] for j in range(max(block) + 1)]
        means = [sum(keys[i] for i in group) / len(group) for group in members]
        scores = [[float(query @ mean) for mean in means] for query in queries]
        kept = selected(scores, block, select, scope, threshold, topk)
        assert torch.equal(mask[0, h], mask_where(layout, lambda query, key, kept=kept: (query, block[key]) in kept))


def test_a_number_of_blocks_for_each_partition(tensors: Helper) -> None:
    layout = Layout(Grid(4, 4, 4))
    q, k = tensors(layout, 1, 1)
    common: dict[str, Any] = {
        "method": "vmoba",
        "grid": layout.grid,
        "partition": (1, (2, 2), (2, 2, 2)),
        "select": "topk",
    }
    for scope in ("head", "query"):
        for layer, (blocks, kept) in enumerate([(4, 1), (4, 3), (8, 5)] * 2):
            plan = attnbench.select(q, k, layer=layer, topk=[1, 3, 5], scope=scope, **common)
            assert plan.density == pytest.approx(kept / blocks)
            one = attnbench.select(q, k, layer=layer, topk=kept, scope=scope, **common)
            assert torch.equal(plan.token_mask(), one.token_mask())


def resolve(grid: tuple[int, int, int], **given_settings: object) -> Any:
    method = get_method("vmoba")
    resolved = method.resolve(method.settings(**given_settings), Layout(Grid(*grid)))
    assert method.resolve(resolved, Layout(Grid(*grid))) == resolved
    return resolved


@pytest.mark.parametrize(
    ("grid", "partition", "topk"),
    [
        ((21, 30, 52), (3, (5, 13), (7, 5, 13)), (2, 6, 18)),
        ((21, 45, 80), (3, (9, 10), (7, 15, 20)), (2, 10, 9)),
        ((24, 36, 64), (3, (6, 8), (8, 12, 8)), (2, 12, 18)),
        ((36, 30, 52), (3, (5, 13), (12, 10, 13)), (3, 6, 9)),
    ],
)
def test_defaults_at_the_papers_four_grids(
    grid: tuple[int, int, int], partition: Partition, topk: tuple[int, int, int]
) -> None:
    """The paper states k for the first two; elsewhere a quarter of the blocks, rounded up."""
    resolved = resolve(grid)
    assert (resolved.partition, resolved.select, resolved.scope, resolved.threshold) == (
        partition, "threshold", "head", 0.25,
    )  # fmt: skip
    assert resolved.topk is None
    assert resolve(grid, select="topk").topk == topk
    assert resolve(grid, select="topk", topk=4).topk == 4


@given(sides=st.tuples(*[st.integers(1, 60)] * 3))
def test_defaults_at_any_other_grid(sides: tuple[int, int, int]) -> None:
    t, h, w = sides
    partition = (3, (ceil(h / 6), ceil(w / 8)), (ceil(t / 3), ceil(h / 3), ceil(w / 8)))
    assert resolve(sides).partition == partition
    _, patch, cuboid = partition
    blocks = (
        ceil(t / 3),
        ceil(h / patch[0]) * ceil(w / patch[1]),
        ceil(t / cuboid[0]) * ceil(h / cuboid[1]) * ceil(w / cuboid[2]),
    )
    assert resolve(sides, select="topk").topk == tuple(ceil(count / 4) for count in blocks)


def test_a_partition_of_ones_own_counts_its_own_blocks() -> None:
    resolved = resolve((21, 45, 80), partition=[7, [45, 40], [21, 45, 40]], select="topk")
    assert resolved.partition == (7, (45, 40), (21, 45, 40))
    assert resolved.topk == (1, 1, 1)


def test_layers_repeat_after_three() -> None:
    method = get_method("vmoba")
    assert [method.distinct_layers(method.settings(), count) for count in (1, 2, 3, 30)] == [
        (0,), (0, 1), (0, 1, 2), (0, 1, 2),
    ]  # fmt: skip
    layout = Layout(Grid(3, 4, 5))
    random = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 2, 60, 8, generator=random)
    masks: list[Tensor] = [
        attnbench.select(
            q, k, method="vmoba", grid=layout.grid, layer=layer, partition=(1, (2, 2), (2, 2, 2))
        ).token_mask()
        for layer in range(6)
    ]
    assert all(torch.equal(masks[layer], masks[layer + 3]) for layer in range(3))
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])


def test_blocks_stay_within_the_grid() -> None:
    x = torch.randn(1, 1, 60, 4, generator=torch.Generator().manual_seed(0))
    for layer in range(3):
        plan = attnbench.select(x, x, method="vmoba", grid=(3, 4, 5), layer=layer, partition=(9, (9, 9), (9, 9, 9)))
        assert plan.density == 1.0
