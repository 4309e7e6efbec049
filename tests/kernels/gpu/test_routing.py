"""Routes restated in plain loops, and that the chain of kernels can be captured: it never waits for the device."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.gpu.routing import Routes, build_routes, most_tiles
from attnbench.kernels.gpu.selection.cut_heads import Tuning, cut_threshold_head, cut_top_k_head
from attnbench.kernels.gpu.selection.cut_queries import cut_threshold_query, cut_top_k_query
from attnbench.kernels.gpu.selection.pooling import pool_means
from attnbench.kernels.gpu.selection.scoring import score
from attnbench.kernels.selection import pool_blocks, score_blocks, threshold_per_head
from tests.kernels.gpu.draws import draws

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Lists = dict[tuple[int, int, int], list[int]]


def lists_of(keep: Tensor, group: int) -> Lists:
    """Ascending queries by (row, first block, pattern)."""
    lists: Lists = defaultdict(list)
    for row, head in enumerate(keep.flatten(0, 1).tolist()):
        for query, chosen in enumerate(head):
            for first in range(0, len(chosen), group):
                pattern = sum(1 << i for i, kept in enumerate(chosen[first : first + group]) if kept)
                if pattern:
                    lists[row, first, pattern].append(query)
    return dict(lists)


def tiles_of(routes: Routes) -> list[tuple[tuple[int, int, int], list[int]]]:
    found = []
    for row, first, pattern, start in routes.tiles[: int(routes.count)].tolist():
        found.append(((row, first, pattern), routes.queries[start : start + routes.tile].tolist()))
    return found


@st.composite
def draw_keep(draw: st.DrawFn) -> Tensor:
    shape = (
        draw(st.integers(1, 2)),
        draw(st.integers(1, 2)),
        draw(st.sampled_from([1, 5, 32, 70, 1100])),
        draw(st.integers(1, 5)),
    )
    random = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    density = torch.rand(shape[-1], generator=random) * draw(st.sampled_from([0.0, 0.3, 1.0, 2.0]))
    keep = torch.rand(shape, generator=random) < density
    if draw(st.booleans()):
        keep = keep.transpose(1, 2).contiguous().transpose(1, 2)
    return keep.to(DEVICE)


@settings(max_examples=draws(12), suppress_health_check=[HealthCheck.too_slow])
@given(keep=draw_keep(), group=st.integers(1, 3), tile=st.sampled_from([4, 16, 128]))
def test_every_list_in_tiles(keep: Tensor, group: int, tile: int) -> None:
    routes = build_routes(keep, group, tile=tile)
    lists, found = lists_of(keep, group), defaultdict(list)
    assert int(routes.overflow) == 0
    assert int(routes.count) == sum(-(-len(queries) // tile) for queries in lists.values()) <= routes.capacity
    sizes = []
    for name, queries in tiles_of(routes):
        real = [query for query in queries if query >= 0]
        assert real
        assert queries == real + [-1] * (tile - len(real))
        found[name] += real
        sizes.append(name[2].bit_count())
    assert found == lists
    assert sizes == sorted(sizes, reverse=True)


@settings(max_examples=draws(8), suppress_health_check=[HealthCheck.too_slow])
@given(keep=draw_keep(), group=st.integers(1, 3))
def test_every_list_can_be_found_by_its_number(keep: Tensor, group: int) -> None:
    routes = build_routes(keep, group, tile=16)
    rows, groups = keep.shape[0] * keep.shape[1], -(-keep.shape[3] // group)
    lists, queries, seen = lists_of(keep, group), routes.queries.tolist(), set()
    for row in range(rows):
        for index in range(groups):
            for pattern, (larger, place, size) in enumerate(routes.ranks.tolist(), 1):
                number = larger * groups * rows + (row * groups + index) * size + place
                seen.add(number)
                start, total = int(routes.starts[number]) * 16, int(routes.totals[number])
                wanted = lists.get((row, index * group, pattern), [])
                assert queries[start : start + total] == wanted
    assert seen == set(range(len(routes.totals)))


@settings(max_examples=draws(8), suppress_health_check=[HealthCheck.too_slow])
@given(keep=draw_keep(), group=st.integers(1, 3))
def test_blocks_in_another_order(keep: Tensor, group: int) -> None:
    near = torch.randperm(keep.shape[3], device=DEVICE)
    routes = build_routes(keep, group, tile=16, near=near)
    assert tiles_of(routes) == tiles_of(build_routes(keep[..., near], group, tile=16))


def test_a_shared_head_is_routed_once() -> None:
    keep = torch.tensor([[True, False], [True, True], [False, True]], device=DEVICE)
    routes = build_routes(keep.expand(1, 1, 3, 2), tile=2)
    assert tiles_of(routes) == [((0, 0, 1), [0, 1]), ((0, 1, 1), [1, 2])]


def test_too_many_tiles_are_reported_and_those_that_fit_are_right() -> None:
    keep = torch.ones(1, 2, 40, 3, dtype=torch.bool, device=DEVICE)
    whole, part = build_routes(keep, tile=16), build_routes(keep, tile=16, capacity=5)
    assert (int(whole.count), int(whole.overflow)) == (18, 0)
    assert (int(part.count), int(part.overflow), part.capacity) == (5, 1, 5)
    assert tiles_of(part) == tiles_of(whole)[:5]
    just = build_routes(keep, tile=16, capacity=18)
    assert (int(just.count), int(just.overflow)) == (18, 0)
    assert tiles_of(just) == tiles_of(whole)


@given(n=st.integers(1, 60), blocks=st.integers(1, 5), group=st.integers(1, 3), seed=st.integers(0, 99))
def test_the_most_tiles_that_shapes_can_need(n: int, blocks: int, group: int, seed: int) -> None:
    keep = torch.rand(1, 1, n, blocks, generator=torch.Generator().manual_seed(seed)) < 0.7
    needed = sum(-(-len(queries) // 4) for queries in lists_of(keep, group).values())
    assert needed <= most_tiles(1, n, blocks, group, 4)


def test_bad_sizes_are_refused() -> None:
    keep = torch.ones(1, 1, 4, 3, dtype=torch.bool, device=DEVICE)
    with pytest.raises(BadInput, match="group is 0"):
        build_routes(keep, 0)
    with pytest.raises(BadInput, match="tile is 12"):
        build_routes(keep, tile=12)
    with pytest.raises(BadInput, match="capacity is 0"):
        build_routes(keep, capacity=0)
    with pytest.raises(Unsupported, match="uint8"):
        build_routes(keep.view(torch.uint8))


class Operations(TorchDispatchMode):
    """Record the names of torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def chain(q: Tensor, k: Tensor, offsets: Tensor, own: Tensor) -> tuple[Tensor, list[Tensor]]:
    means = pool_means(k, None, offsets)
    scores, extremes = score(q, means)
    tuning = Tuning(tile=64, levels=2, capacity=32, block=32)
    keep = cut_threshold_head(scores, own, 0.25, extremes=extremes, tuning=tuning)
    others = [
        cut_threshold_head(scores, own, 0.25, tuning=tuning),
        cut_top_k_head(scores, own, 2, tuning=tuning),
        cut_threshold_query(scores, own, 0.25),
        cut_top_k_query(scores, own, 2),
    ]
    routes = build_routes(keep, 2, tile=16)
    return keep, [*others, routes.queries, routes.tiles, routes.count]


def chain_inputs(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(1, 2, 50, 16, generator=random).to(DEVICE) for _ in range(2))
    offsets, own = torch.tensor([0, 20, 40, 50]), torch.tensor([0] * 20 + [1] * 20 + [2] * 10)
    return q, k, offsets.to(DEVICE), own.to(DEVICE)


def test_the_chain_uses_no_operation_that_waits_for_the_device() -> None:
    inputs = chain_inputs(0)
    build_routes(torch.ones(1, 1, 1, 1, dtype=torch.bool, device=DEVICE), 2)  # fills its table of patterns once
    with Operations() as operations:
        keep, _ = chain(*inputs)
    waiting = {
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "index",
        "unique",
        "repeat_interleave",
        "item",
        "equal",
    }
    assert not operations.names & waiting
    scores = score_blocks(inputs[0], pool_blocks(inputs[1], None, inputs[2]))
    assert torch.equal(keep, threshold_per_head(scores.double(), inputs[3], 0.25))


@pytest.mark.skipif(DEVICE.type == "cpu", reason="CUDA graphs need a GPU")
def test_the_chain_can_be_captured_and_replayed_on_other_inputs() -> None:
    inputs = chain_inputs(0)
    chain(*inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured, _ = chain(*inputs)
    other = chain_inputs(1)
    for held, new in zip(inputs[:2], other[:2], strict=True):
        held.copy_(new)
    graph.replay()
    assert torch.equal(captured, chain(*other)[0])
