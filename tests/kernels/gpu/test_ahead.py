"""Rules that say how far ahead queries see: when they are known as such, and that first queries of a tile see least.

The Gluon kernels rely on both, and have no interpreter. What they do with each step is restated here in plain loops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.band import Band
from attnbench.kernels.gpu import block_tiles, hopper, routed, routed_backward
from attnbench.kernels.gpu.rule_arrays import rule_arrays
from attnbench.kernels.gpu.work import KEYS, PLACES, ROWS, KeyTiles, Tiles
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import UNBOUNDED, Rule, causal, window
from tests.kernels.gpu.draws import draws

CPU = torch.device("cpu")
RULES = [causal(), Rule("ahead", "raster", (-UNBOUNDED,), (70,)), Rule("behind", "raster", (-UNBOUNDED,), (-5,))]


@settings(max_examples=draws(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_ahead_says_what_the_rule_says(data: st.DataObject, plan_cases: Callable[..., Any]) -> None:
    plan = data.draw(plan_cases().filter(lambda case: case.plan.pattern.rule is not None)).plan
    rule, arrays = plan.pattern.rule, rule_arrays(plan)
    assert arrays is not None
    still = plan.q_order is None and plan.k_order is None and plan.layout.text == (0, 0)
    if rule.name == "causal" and still:
        assert arrays.ahead == 0
    if arrays.ahead is not None:
        assert still
        where = rule.positions(plan.layout, CPU)
        token = torch.arange(plan.layout.tokens)
        assert torch.equal(rule.allowed(where[:, None], where[None]), token <= token[:, None] + arrays.ahead)


@pytest.mark.parametrize(
    ("rule", "text", "ahead"),
    [
        (causal(), (0, 0), 0),
        (RULES[1], (0, 0), 60),  # no two of 60 tokens are further apart
        (RULES[2], (0, 0), -5),
        (Rule("most", "raster", (-UNBOUNDED,), (UNBOUNDED,)), (0, 0), 60),
        (causal(), (3, 0), None),
        (causal(), (0, 3), None),
        (window(1, 1, 1), (0, 0), None),
        (Rule("both", "raster", (-58,), (2,)), (0, 0), None),
        (Rule("all behind", "raster", (-59,), (2,)), (0, 0), 2),
    ],
)
def test_when_a_rule_is_about_what_lies_ahead(rule: Rule, text: tuple[int, int], ahead: int | None) -> None:
    layout = Layout(Grid(3, 4, 5), text)
    offsets = torch.tensor([0, layout.tokens])
    plan = Plan(layout, 1, 1, BlockPattern(offsets, offsets, torch.ones(1, 1, 1, 1, dtype=torch.bool), rule))
    arrays = rule_arrays(plan)
    assert arrays is not None
    assert arrays.ahead == ahead
    moved = rule_arrays(replace(plan, k_order=torch.arange(layout.tokens)))
    assert moved is not None
    assert moved.ahead is None


def pairs_of_tiles(tiles: Tiles, heads: int, n: int, ahead: int) -> Tensor:
    """Return the pairs that the Gluon kernels compute over tiles and do not hide, int64 [heads, N, N]."""
    seen = torch.zeros(heads, n, n, dtype=torch.int64)
    places, segments = tiles.queries.tolist(), tiles.segments.abs().tolist()
    for head, first, segment, _, _, steps, *_ in tiles.records[: int(tiles.count)].tolist():
        for half in range(2):
            queries = places[first + half * ROWS // 2 :][: ROWS // 2]
            limits, number = [query + ahead + 1 for query in queries], segment
            start, end = segments[number]
            for step in range(steps):
                compared = start + KEYS > min(limits[0], end)
                for query, limit in zip(queries, limits, strict=True):
                    stop = min(start + KEYS, limit, end) if compared else start + KEYS
                    if query >= 0:
                        seen[head, query, start : max(stop, start)] += 1
                start += KEYS
                if start >= end and step + 1 < steps:
                    number += 1
                    start, end = segments[number]
    return seen


def pairs_of_key_tiles(tiles: KeyTiles, heads: int, n: int, ahead: int) -> Tensor:
    """Return the same for key tiles."""
    seen = torch.zeros(heads, n, n, dtype=torch.int64)
    places, segments = tiles.queries.tolist(), tiles.segments.abs().tolist()
    for head in range(heads):
        for begin, end, first, number, *_ in tiles.records[head].tolist():
            for start, stop in segments[first : first + number] if begin < end else ():
                for place in range(start, stop, PLACES):
                    queries = places[place : min(place + PLACES, stop)]
                    for keys in (range(begin, min(begin + 64, end)), range(begin + 64, end)):
                        compared = bool(keys) and keys[0] + 64 > queries[0] + ahead + 1
                        for key in keys:
                            kept = [q for q in queries if q >= 0 and (not compared or key < q + ahead + 1)]
                            seen[head, kept, key] += 1
    return seen


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("kind", ["routed", "blocks"])
def test_steps_that_are_not_compared_hide_nothing(
    rule: Rule, kind: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [130, 40, 129, 64, 200, 1, 128, 90]
    n, heads = sum(sizes), 2
    random = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, *sizes], device=device).cumsum(0)
    keep = torch.rand(1, heads, n if kind == "routed" else len(sizes), len(sizes), generator=random).to(device) < 0.6
    pattern = RoutedPattern(offsets, keep, rule) if kind == "routed" else BlockPattern(offsets, offsets, keep, rule)
    plan = Plan(Layout(Grid(1, 1, n)), 1, heads, pattern)
    arrays = rule_arrays(plan)
    assert arrays is not None
    assert arrays.ahead is not None
    if kind == "routed":
        monkeypatch.setattr(routed, "FEW_BLOCKS", 2)
        monkeypatch.setattr(routed_backward, "keys_of_a_tile", lambda n, blocks: KEYS)
        routes = routed.routes_of(plan, routed.clustered(plan), slice(0, 1), slice(0, heads))
        tiles, key_tiles = routed.tiles_of(routes), routed_backward.key_tiles_of(routes, offsets, n, masked=True)
    else:
        monkeypatch.setattr(block_tiles, "sizes_of", lambda plan: (ROWS, KEYS))
        monkeypatch.setattr(block_tiles, "tile_size", lambda tokens, blocks, most: most)
        work = block_tiles.lay_out(plan)
        tiles, key_tiles = block_tiles.tiles_of(work), block_tiles.key_tiles_of(work, heads)
    assert (tiles.rows, tiles.keys, key_tiles.keys) == (ROWS, KEYS, KEYS)
    kept = plan.token_mask()[0].long().cpu()
    assert torch.equal(pairs_of_tiles(tiles, heads, n, arrays.ahead), kept)
    assert torch.equal(pairs_of_key_tiles(key_tiles, heads, n, arrays.ahead), kept)


def test_the_gluon_kernels_take_rules_that_limit_each_row() -> None:
    offsets = torch.tensor([0, 60])
    pattern = BlockPattern(offsets, offsets, torch.ones(1, 1, 1, 1, dtype=torch.bool), causal())
    limits = rule_arrays(Plan(Layout(Grid(3, 4, 5)), 1, 1, pattern))
    others = rule_arrays(Plan(Layout(Grid(3, 4, 5)), 1, 1, replace(pattern, rule=window(1, 1, 1))))
    band = replace(pattern, rule=None, band=Band(*[torch.zeros(1, 1, dtype=torch.int64)] * 2))
    of_band = rule_arrays(Plan(Layout(Grid(3, 4, 5)), 1, 1, band))
    assert all(hopper.written_for(128, rule, ROWS, KEYS) for rule in (None, limits, of_band))
    assert not hopper.written_for(128, others, ROWS, KEYS)
