"""Words of bits that say what an element rule keeps, against whole masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.gpu.block_tiles import key_tiles_of, lay_out, tiles_of
from attnbench.kernels.gpu.work import KEYS, ROWS, KeyTiles, Tiles
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_cuboids
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import Rule, band, causal, window
from tests.kernels.gpu.draws import draws


def kept_pairs(tiles: Tiles, plan: Plan) -> Tensor:
    """Rebuild which pairs the tiles of the first head keep, in grid order, bool [N, N]."""
    masks, chunk_of, n = tiles.masks, tiles.chunk_of, plan.layout.tokens
    assert masks is not None
    assert chunk_of is not None
    token_of = list(range(n)) if plan.k_order is None else plan.k_order.tolist()
    mask = torch.zeros(n, n, dtype=torch.bool)
    for record in tiles.records[: int(tiles.count)].tolist():
        head, place, segment, _, _, steps, *_ = record
        if head:
            continue
        queries = [q for q in tiles.queries[place : place + tiles.rows].tolist() if q >= 0]
        start, end = tiles.segments[segment].tolist()
        chunk = int(chunk_of[segment]) if steps else 0
        for _step in range(steps):
            for query in queries:
                words = None
                if end < 0:
                    rows = masks.rows_of[query, : masks.axes].tolist()
                    words = [masks.words[row, chunk].tolist() for row in rows]
                for key in range(tiles.keys):
                    if words is None:
                        kept = start + key < end
                    else:
                        bit = key // 8 * 2 + key % 2
                        kept = all(word[key % 8 // 2] >> bit & 1 for word in words)
                    if kept:
                        mask[query, token_of[start + key]] = True
            start, chunk = start + tiles.keys, chunk + 1
            if start >= abs(end):
                segment += 1
                start, end = tiles.segments[segment].tolist()
                chunk = int(chunk_of[segment])
    return mask


def pairs_of_keys(tiles: KeyTiles, plan: Plan) -> Tensor:
    """Rebuild which pairs the key tiles of the first head keep, in grid order, bool [N, N]."""
    masks, n = tiles.masks, plan.layout.tokens
    assert masks is not None
    token_of = list(range(n)) if plan.k_order is None else plan.k_order.tolist()
    mask = torch.zeros(n, n, dtype=torch.bool)
    for begin, end, segment, number, *_ in tiles.records[0].tolist():
        for first, last in tiles.segments[segment : segment + number].tolist() if begin < end else ():
            for place in range(first, abs(last)):
                query = int(tiles.queries[place])
                for key in range(begin, end) if query >= 0 else ():
                    kept = True
                    if last < 0:
                        lines = masks.rows_of[key, : masks.axes].tolist()
                        column = place % 128
                        words = (int(masks.words[line, place // 128, column % 8 // 2]) for line in lines)
                        kept = all(word >> (column // 8 * 2 + column % 2) & 1 for word in words)
                    if kept:
                        mask[query, token_of[key]] = True
    return mask


def on_cpu(tiles: Tiles) -> Tiles:
    masks, chunk_of = tiles.masks, tiles.chunk_of
    assert masks is not None
    assert chunk_of is not None
    masks = replace(masks, words=masks.words.cpu(), rows_of=masks.rows_of.cpu())
    lists = (x.cpu() for x in (tiles.queries, tiles.records, tiles.count, tiles.segments))
    return Tiles(*lists, tiles.rows, tiles.keys, masks=masks, chunk_of=chunk_of.cpu())


def keys_on_cpu(tiles: KeyTiles) -> KeyTiles:
    masks = tiles.masks
    assert masks is not None
    masks = replace(masks, words=masks.words.cpu(), rows_of=masks.rows_of.cpu())
    return KeyTiles(tiles.queries.cpu(), tiles.records.cpu(), tiles.segments.cpu(), tiles.keys, masks)


def check(moved: Plan, plan: Plan) -> None:
    """Compare with the plan's mask, in tiles of 128 rows and steps of 128 keys, for which alone words are made."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("attnbench.kernels.gpu.block_tiles.sizes_of", lambda _: (ROWS, KEYS))
        work = lay_out(moved)
        tiles = on_cpu(tiles_of(work, masked=True))
        key_tiles = keys_on_cpu(key_tiles_of(work, plan.heads, masked=True))
    assert torch.equal(kept_pairs(tiles, plan), plan.token_mask()[0, 0])
    assert torch.equal(pairs_of_keys(key_tiles, plan), plan.token_mask()[0, 0])


def move(plan: Plan, device: torch.device) -> Plan:
    pattern = plan.pattern
    assert isinstance(pattern, BlockPattern)
    orders = (None if order is None else order.to(device) for order in (plan.q_order, plan.k_order))
    sides = (x.to(device) for x in (pattern.q_offsets, pattern.k_offsets, pattern.keep))
    return Plan(plan.layout, plan.batch, plan.heads, BlockPattern(*sides, pattern.rule), *orders)


@settings(
    max_examples=draws(12), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
@given(data=st.data())
def test_tiles_and_words_keep_the_pairs_of_the_plan(
    data: st.DataObject, plan_cases: Callable[..., Any], device: torch.device
) -> None:
    def suits(case: Any) -> bool:
        pattern, orders = case.plan.pattern, (case.plan.q_order, case.plan.k_order)
        blocks = isinstance(pattern, BlockPattern) and pattern.rule is not None
        return blocks and all(order is None or order.dim() == 1 for order in orders)

    plan = data.draw(plan_cases().filter(suits)).plan
    check(move(plan, device), plan)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (window(1, 2, 3), (0, 0)),
        (causal(), (3, 200)),
        pytest.param(band(40), (0, 0), marks=pytest.mark.slow),
        pytest.param(window(1, 2, 3), (3, 200), marks=pytest.mark.slow),
        pytest.param(band(40), (3, 200), marks=pytest.mark.slow),
    ],
)
def test_blocks_larger_than_a_chunk_and_text(rule: Rule, text: tuple[int, int], device: torch.device) -> None:
    layout = Layout(Grid(3, 10, 13), text)
    partition = partition_cuboids(layout, (2, 10, 13), torch.device("cpu"))
    blocks = partition.blocks
    keep = torch.ones(1, 1, blocks, blocks, dtype=torch.bool)
    pattern = BlockPattern(partition.offsets, partition.offsets, keep, rule)
    plan = Plan(layout, 1, 1, pattern, partition.order, partition.order)
    check(move(plan, device), plan)
