"""Lists of work of block patterns, read back pair by pair in plain Python and compared with what the plan keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.gpu import block_tiles, blocked, kept_lists, paired_tiles
from attnbench.kernels.gpu.rule_arrays import rule_arrays, tokens_of
from attnbench.kernels.gpu.work import KeyTiles, RuleArrays, Tiles
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan, bounding_boxes
from attnbench.kernels.rule import Rule, causal, window
from attnbench.kernels.tile_counts import tile_work
from tests.kernels.gpu.draws import draws

slow = settings(
    max_examples=draws(15), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def _move(plan: Plan, device: torch.device) -> Plan:
    pattern = plan.pattern
    assert isinstance(pattern, BlockPattern)
    q_order, k_order = (None if order is None else order.to(device) for order in (plan.q_order, plan.k_order))
    offsets = pattern.q_offsets.to(device), pattern.k_offsets.to(device)
    moved = BlockPattern(*offsets, pattern.keep.to(device), pattern.rule)
    return Plan(plan.layout, plan.batch, plan.heads, moved, q_order, k_order)


def _passes(rule: RuleArrays, head: int, query: int, position: int) -> bool:
    packed, low, text = (x[head] if x.dim() == 2 else x for x in (rule.k_packed, rule.k_low, rule.k_text))
    if bool(rule.q_text[query]) or bool(text[position]):
        return True
    above, below = int(low[position] - rule.q_packed[query]), int(rule.q_high[query] - packed[position])
    return above & below & rule.guard == rule.guard


def _key_token(plan: Plan, head: int, position: int) -> int:
    order = plan.order_of("k", head // plan.heads, head % plan.heads)
    return position if order is None else int(order[position])


def _add(plan: Plan, rule: RuleArrays | None, seen: Tensor, head: int, query: int, position: int, masked: bool) -> None:
    if not masked or (rule is not None and _passes(rule, head, query, position)):
        seen[head, query, _key_token(plan, head, position)] += 1


def pairs_of_tiles(plan: Plan, tiles: Tiles, *, every_row: int = 1) -> Tensor:
    """How often each pair is in the tiles, int64 [B · H, N, N]; checks steps, limits and padding on the way."""
    plan = _move(plan, torch.device("cpu"))
    n, heads, rule = plan.layout.tokens, plan.batch * plan.heads, rule_arrays(plan)
    seen = torch.zeros(heads, n, n, dtype=torch.int64)
    rows = torch.zeros(heads, n, dtype=torch.int64)
    segments = tiles.segments.tolist()
    visible = None if tiles.visible is None else tiles.visible.tolist()
    for head, place, segment, start, end, steps, _, _ in tiles.records[: int(tiles.count)].tolist():
        queries = [query for query in tiles.queries[place : place + tiles.rows].tolist() if query >= 0]
        rows[head, queries] += 1
        assert steps == 0 or [start, end] == segments[segment]
        while steps > 0:
            start, end = segments[segment]
            steps -= -(-(abs(end) - start) // tiles.keys)
            segment += 1
            limits = [start, abs(end)] * 2 if visible is None else visible[segment - 1]
            for row, query in enumerate(tiles.queries[place : place + tiles.rows].tolist()):
                low, high = limits[:2] if row < tiles.rows // 2 else limits[2:]
                assert low >= high or start <= low < high <= abs(end)
                for position in range(low, high) if query >= 0 else ():
                    _add(plan, rule, seen, head, query, position, end < 0)
        assert steps == 0
    assert (rows == every_row).all()
    return seen


def pairs_of_key_tiles(plan: Plan, tiles: KeyTiles) -> Tensor:
    plan = _move(plan, torch.device("cpu"))
    n, heads, rule = plan.layout.tokens, plan.batch * plan.heads, rule_arrays(plan)
    seen = torch.zeros(heads, n, n, dtype=torch.int64)
    keys = torch.zeros(heads, n, dtype=torch.int64)
    segments = tiles.segments.tolist()
    for head in range(heads):
        for start, end, first, runs, *_ in tiles.records[head].tolist():
            assert 0 <= end - start <= tiles.keys
            keys[head, start:end] += 1
            for begin, stop in segments[first : first + runs] if end > start else []:
                for query in tiles.queries[begin : abs(stop)].tolist():
                    for position in range(start, end) if query >= 0 else ():
                        _add(plan, rule, seen, head, query, position, stop < 0)
    assert (keys == 1).all()
    return seen


@slow
@given(data=st.data())
def test_tiles_hold_every_kept_pair_once(
    data: st.DataObject,
    plan_cases: Callable[..., Any],
    brute_force: Callable[[Any], Tensor],
    device: torch.device,
) -> None:
    case = data.draw(plan_cases().filter(lambda case: isinstance(case.plan.pattern, BlockPattern)))
    plan = _move(case.plan, device)
    work = block_tiles.lay_out(plan)
    kept = brute_force(case).flatten(0, 1).long()
    assert torch.equal(pairs_of_tiles(plan, block_tiles.tiles_of(work)), kept)
    assert torch.equal(pairs_of_key_tiles(plan, block_tiles.key_tiles_of(work, case.kv_heads)), kept)


@slow
@given(data=st.data())
def test_pairs_of_tiles_hold_every_kept_pair_once_or_leave_all_to_the_small_ones(
    data: st.DataObject,
    plan_cases: Callable[..., Any],
    brute_force: Callable[[Any], Tensor],
    device: torch.device,
) -> None:
    def suits(case: Any) -> bool:
        return isinstance(case.plan.pattern, BlockPattern) and case.plan.pattern.rule is None

    case = data.draw(plan_cases().filter(suits))
    plan = _move(case.plan, device)
    work = block_tiles.lay_out(plan)
    kept = brute_force(case).flatten(0, 1).long()
    small = block_tiles.tiles_of(work)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(paired_tiles, "ROWS", 2 * work.rows)
        patched.setattr(paired_tiles, "KEYS", 16)
        patched.setattr(paired_tiles, "STEPS_WORTH_A_PAIRED_ONE", data.draw(st.sampled_from([-1.0, 1e9])))
        pairs = paired_tiles.STEPS_WORTH_A_PAIRED_ONE < 0
        plain, paired = paired_tiles.pair_up(work, small)
    if not bool(kept.any()):
        pairs = int(plain.count) == 0  # nothing decides
    assert torch.equal(pairs_of_tiles(plan, paired, every_row=int(pairs)), kept * pairs)
    assert torch.equal(pairs_of_tiles(plan, plain, every_row=int(not pairs)), kept * (not pairs))


def test_tiles_are_paired_where_neighbours_keep_the_same_keys(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets = torch.arange(0, 64 * 9, 64, device=device)
    near = (torch.arange(8)[:, None] - torch.arange(8)).abs() <= 2
    spread = torch.eye(8, dtype=torch.bool).roll(3, 1)
    for keep, worth_it in ((near, True), (spread, False)):
        pattern = BlockPattern(offsets, offsets, keep.view(1, 1, 8, 8).to(device))
        plan = Plan(Layout(Grid(512, 1, 1)), 1, 2, pattern)
        assert paired_tiles.can_pair(plan)
        work = block_tiles.lay_out(plan)
        plain, paired = paired_tiles.pair_up(work, block_tiles.tiles_of(work))
        assert (int(plain.count), int(paired.count)) == ((0, 8) if worth_it else (16, 0))
        monkeypatch.setattr("attnbench.kernels.gpu.hopper.is_hopper", lambda _: True)
        assert tile_work(plan, 1).executed_pairs == blocked.executed_pairs(plan, hopper=True)


def _random_plan(
    device: torch.device,
    sizes: list[int],
    shape: tuple[int, int],
    rule: Rule | None = None,
    orders: str = "",
    layout: Layout | None = None,
) -> Plan:
    generator = torch.Generator().manual_seed(len(sizes))
    n = sum(sizes)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    keep = torch.rand(*shape, len(sizes), len(sizes), generator=generator) < 0.5
    q_order = torch.rand(1, 2, n, generator=generator).argsort(-1) if "q" in orders else None
    k_order = torch.rand(1, 2, n, generator=generator).argsort(-1) if "k" in orders else None
    pattern = BlockPattern(offsets, offsets, keep, rule)
    return _move(Plan(layout or Layout(Grid(n, 1, 1)), 1, 2, pattern, q_order, k_order), device)


@pytest.mark.parametrize("orders", ["", "q", "k"])
@pytest.mark.parametrize("rule", [None, causal()])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2)])
def test_blocks_longer_and_shorter_than_a_tile(
    orders: str, rule: Rule | None, shape: tuple[int, int], device: torch.device
) -> None:
    plan = _random_plan(device, [70, 3, 33, 1, 20], shape, rule, orders)
    work = block_tiles.lay_out(plan)
    assert work.rows == 32
    kept = plan.token_mask().flatten(0, 1).long().cpu()
    assert torch.equal(pairs_of_tiles(plan, block_tiles.tiles_of(work)), kept)
    assert torch.equal(pairs_of_key_tiles(plan, block_tiles.key_tiles_of(work, 1)), kept)


def test_heads_that_share_a_pattern_share_its_lists(device: torch.device) -> None:
    alike, own = _random_plan(device, [20] * 6, (1, 1)), _random_plan(device, [20] * 6, (1, 2))
    first, second = (block_tiles.tiles_of(block_tiles.lay_out(plan)) for plan in (alike, own))
    assert len(second.segments) - 1 == 2 * (len(first.segments) - 1)
    assert len(first.queries) == len(second.queries)
    assert int(first.count) == int(second.count) == 2 * 6


def test_neighbouring_blocks_are_one_segment_and_one_step_less(device: torch.device) -> None:
    offsets = torch.arange(0, 121, 20)
    keep = torch.tensor([[True, True, False, True, True, True]])
    plan = Plan(Layout(Grid(120, 1, 1)), 1, 1, BlockPattern(torch.tensor([0, 120]), offsets, keep[None, None]))
    plan = _move(plan, device)
    tiles = block_tiles.tiles_of(block_tiles.lay_out(plan))
    assert tiles.keys == 32
    assert tiles.segments[:2].tolist() == [[0, 40], [60, 120]]
    assert tiles.records[0, 5] == 2 + 2


def test_tiles_of_a_head_are_sorted_by_their_steps_and_the_last_ends_with_the_fewest(device: torch.device) -> None:
    plan = _random_plan(device, [16] * 9, (1, 2))
    tiles = block_tiles.tiles_of(block_tiles.lay_out(plan))
    records = tiles.records[: int(tiles.count)].view(2, -1, 8)
    for head, falls in enumerate((False, True)):
        assert bool((records[head, :, 0] == head).all())
        steps = records[head, :, 5]
        assert torch.equal(steps, steps.sort(descending=falls).values)
        assert steps.min() < steps.max()


def test_heads_of_a_kv_head_have_the_same_keys_in_the_same_places(device: torch.device) -> None:
    tiles = block_tiles.key_tiles_of(block_tiles.lay_out(_random_plan(device, [16, 40] * 4, (1, 2))), 1)
    assert torch.equal(tiles.records[0, :, :2], tiles.records[1, :, :2])


@pytest.mark.parametrize("text", [(0, 0), (3, 0), (2, 5)])
def test_blocks_are_classified_by_their_boxes(text: tuple[int, int], device: torch.device) -> None:
    rule, layout = window(1, 1, 1), Layout(Grid(4, 5, 6), text)
    inner = [10] * 12 if text == (2, 5) else [text[0] + 10, *[10] * 10, text[1] + 10]
    sizes = [2, *inner, 5] if text == (2, 5) else inner
    plan = _random_plan(device, sizes, (1, 1), rule, layout=layout)
    states = block_tiles.lay_out(plan).states[0, 0].cpu()
    plan = _move(plan, torch.device("cpu"))
    pattern = plan.pattern
    boxes = bounding_boxes(plan.positions, plan.is_text, pattern.q_offsets)
    some, every = rule.classify((boxes.low[:, None], boxes.high[:, None]), (boxes.low[None], boxes.high[None]))
    video = ~(boxes.text[:, None] | boxes.text[None]) & pattern.keep[0, 0]
    assert torch.equal(states[video] == 0, ~some[video])
    assert torch.equal(states[video] == 1, every[video])
    pure = torch.tensor([2, *[0] * 12, 5] if text == (2, 5) else [0] * 12) > 0
    kept_text = (pure[:, None] | pure[None]) & pattern.keep[0, 0]
    assert (states[kept_text] == 1).all()
    mixed = (boxes.text & ~pure)[:, None] & ~pure[None] & pattern.keep[0, 0]
    assert (states[mixed] == 2).all()
    assert (states[~pattern.keep[0, 0]] == 0).all()


def test_a_rule_is_prepared_once_for_a_layout() -> None:
    layout, device = Layout(Grid(2, 3, 4)), torch.device("cpu")
    assert tokens_of(causal(), layout, device) is tokens_of(causal(), layout, device)


def test_room_for_lists_is_counted(device: torch.device) -> None:
    plan = _random_plan(device, [16] * 7, (1, 2))
    work = block_tiles.lay_out(plan)
    made = [block_tiles.tiles_of(work).segments, block_tiles.key_tiles_of(work, 2).segments]
    assert sum(segments.nbytes - 8 for segments in made) == kept_lists.list_bytes(plan)


@pytest.mark.parametrize(
    ("tokens", "blocks", "size"), [(100, 100, 16), (128, 8, 16), (130, 8, 32), (640, 10, 64), (900, 1, 128)]
)
def test_tiles_are_as_large_as_a_mean_block(tokens: int, blocks: int, size: int) -> None:
    assert block_tiles.tile_size(tokens, blocks, 128) == size
