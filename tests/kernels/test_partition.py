from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import Partition, partition_cuboids, partition_in_order, partition_ranges, whole

CPU = torch.device("cpu")
TRIPLES = st.tuples(*[st.integers(1, 7)] * 3)
TEXTS = st.tuples(st.integers(0, 3), st.integers(0, 3))


def blocks_of(partition: Partition, n: int) -> list[list[int]]:
    """The tokens of each block, in order."""
    order = list(range(n)) if partition.order is None else partition.order.tolist()
    assert sorted(order) == list(range(n))
    edges = partition.offsets.tolist()
    assert (edges[0], edges[-1]) == (0, n)
    return [order[start:stop] for start, stop in pairwise(edges)]


def own_by_hand(partition: Partition, layout: Layout) -> list[int]:
    """The block of each video token, counted among the video blocks."""
    blocks = blocks_of(partition, layout.tokens)[partition.video]
    return [next(i for i, block in enumerate(blocks) if token in block) for token in range(layout.tokens)[layout.video]]


def with_text(layout: Layout, video: list[list[int]]) -> list[list[int]]:
    """Blocks of video tokens, numbered from 0, moved behind the leading text; each text is a block of its own."""
    before, after = layout.text
    moved = [[token + before for token in block] for block in video]
    end = layout.tokens
    return [list(range(before))] * (before > 0) + moved + [list(range(end - after, end))] * (after > 0)


@given(sides=TRIPLES, block=TRIPLES, text=TEXTS)
def test_cuboids_are_listed_in_raster_order_and_so_are_their_tokens(
    sides: tuple[int, int, int], block: tuple[int, int, int], text: tuple[int, int]
) -> None:
    layout = Layout(Grid(*sides), text)
    expected = []
    for t0 in range(0, sides[0], block[0]):
        for h0 in range(0, sides[1], block[1]):
            for w0 in range(0, sides[2], block[2]):
                expected.append(
                    [
                        (t * sides[1] + h) * sides[2] + w
                        for t in range(t0, min(t0 + block[0], sides[0]))
                        for h in range(h0, min(h0 + block[1], sides[1]))
                        for w in range(w0, min(w0 + block[2], sides[2]))
                    ]
                )
    partition = partition_cuboids(layout, block, CPU)
    assert own_by_hand(partition, layout) == partition.own.tolist()
    check(partition, layout, with_text(layout, expected))


@given(sides=TRIPLES, block=TRIPLES, text=TEXTS)
def test_neighbouring_cuboids_follow_each_other(
    sides: tuple[int, int, int], block: tuple[int, int, int], text: tuple[int, int]
) -> None:
    partition = partition_cuboids(Layout(Grid(*sides), text), block, CPU)
    t, h, w = (-(-side // size) for side, size in zip(sides, block, strict=True))
    cells = [(i, j, k) for i in range(t) for j in range(h) for k in range(w)]
    if t > 1:
        listed = [(i, j, k) for j in range(h) for k in range(w) for i in range(t)]
    else:
        squares = [(y, x) for y in range(0, h, 2) for x in range(0, w, 2)]
        listed = [(0, j, k) for y, x in squares for j in (y, y + 1) for k in (x, x + 1) if j < h and k < w]
    before, after = partition.text
    numbers = [cells.index(cell) + before for cell in listed]
    near = [0] * before + numbers + [partition.blocks - 1] * after
    assert (partition.near is None) == (near == list(range(partition.blocks)))
    assert partition.near is None or partition.near.tolist() == near


@given(sides=TRIPLES, size=st.integers(1, 400), text=TEXTS)
def test_ranges_follow_the_raster_order_and_only_the_last_is_short(
    sides: tuple[int, int, int], size: int, text: tuple[int, int]
) -> None:
    layout = Layout(Grid(*sides), text)
    n = layout.grid.tokens
    expected = [list(range(start, min(start + size, n))) for start in range(0, n, size)]
    partition = partition_ranges(layout, size, CPU)
    check(partition, layout, with_text(layout, expected))
    assert own_by_hand(partition, layout) == partition.own.tolist()


@given(sides=TRIPLES, text=TEXTS)
def test_the_whole_is_one_block_text_included(sides: tuple[int, int, int], text: tuple[int, int]) -> None:
    layout = Layout(Grid(*sides), text)
    partition = whole(layout, CPU)
    assert blocks_of(partition, layout.tokens) == [list(range(layout.tokens))]
    assert partition.block_of_token().tolist() == [0] * layout.tokens


def check(partition: Partition, layout: Layout, expected: list[list[int]]) -> None:
    assert blocks_of(partition, layout.tokens) == expected
    assert partition.blocks == len(expected)
    assert partition.sizes.tolist() == [len(block) for block in expected]
    assert partition.text == (int(layout.text[0] > 0), int(layout.text[1] > 0))
    video = {token for block in expected[partition.video] for token in block}
    assert video == set(range(layout.tokens)[layout.video])
    block_of = partition.block_of_token().tolist()
    assert [block_of[token] for block in expected for token in block] == [
        number for number, block in enumerate(expected) for _ in block
    ]


def test_what_was_made_once_is_made_once() -> None:
    layout = Layout(Grid(2, 3, 4), (1, 0))
    again = Layout(Grid(2, 3, 4), (1, 0))
    assert partition_cuboids(layout, (1, 2, 3), CPU) is partition_cuboids(again, (1, 2, 3), CPU)
    assert partition_ranges(layout, 5, CPU) is partition_ranges(again, 5, CPU)
    assert whole(layout, CPU) is whole(again, CPU)
    assert partition_ranges(layout, 5, CPU) is not partition_ranges(Layout(Grid(2, 3, 4)), 5, CPU)
    assert whole(layout, CPU).own.tolist() == [0] * 24


@given(sides=TRIPLES, size=st.integers(1, 9), text=TEXTS, seed=st.integers(0, 99))
def test_ranges_of_an_order_of_its_own(
    sides: tuple[int, int, int], size: int, text: tuple[int, int], seed: int
) -> None:
    layout = Layout(Grid(*sides), text)
    order = torch.randperm(layout.grid.tokens, generator=torch.Generator().manual_seed(seed))
    partition = partition_in_order(layout, order, size)
    assert own_by_hand(partition, layout) == partition.own.tolist()
    check(partition, layout, with_text(layout, [chunk.tolist() for chunk in order.split(size)]))
