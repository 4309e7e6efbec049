"""Equal shares for thread blocks that take every n-th tile: what moves where, and how equal the shares become."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attnbench
from attnbench.kernels.gpu import blocked, routed_backward
from attnbench.kernels.gpu.balance import STEPS_OF_A_TILE, even_out, rounded_up, share_out
from attnbench.kernels.gpu.block_tiles import key_tiles_of, lay_out, tiles_of
from attnbench.kernels.gpu.blocked import attend_blocks, backward_blocks
from attnbench.kernels.gpu.routed import attend_routed, clustered, routes_of
from attnbench.kernels.gpu.routed_backward import backward_routed
from attnbench.kernels.gpu.routed_backward import key_tiles_of as routed_key_tiles
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from tests.kernels.gpu.draws import draws


def shares(records: Tensor, count: int, programs: int) -> Tensor:
    """Return the steps that each thread block gets, with those that its tiles cost in addition."""
    work = records[:count, 5].cpu().long() + STEPS_OF_A_TILE
    return torch.zeros(programs, dtype=torch.int64).index_add_(0, torch.arange(count) % programs, work)


@settings(max_examples=draws(20), deadline=None)
@given(
    steps=st.lists(st.integers(0, 300), max_size=60),
    unused=st.integers(0, 9),
    programs=st.sampled_from([1, 3, 8, 13]),
)
def test_tiles_change_places_within_a_round(steps: list[int], unused: int, programs: int, device: torch.device) -> None:
    count = len(steps)
    records = torch.arange((count + unused) * 8, dtype=torch.int32).view(-1, 8)
    records[:count, 5] = torch.tensor(steps, dtype=torch.int32)
    moved = even_out(records.to(device), torch.tensor([count], dtype=torch.int32, device=device), programs).cpu()
    for first in range(0, count, programs):
        row = slice(first, min(first + programs, count))
        assert sorted(moved[row].tolist()) == sorted(records[row].tolist())
    assert torch.equal(moved[count:], records[count:])
    if count:
        share = shares(moved, count, programs)
        assert share.max() - share.min() <= max(steps) + STEPS_OF_A_TILE


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "before", "after"), [(1, 1.5, 1.25), (3, 1.25, 1.04), (12, 1.03, 1.012)])
def test_windows_at_480p_on_132_thread_blocks(heads: int, before: float, after: float, device: torch.device) -> None:
    q = torch.empty(1, 1, 21 * 30 * 52, 1, device=device)
    plan: Plan = attnbench.select(q, q, method="sliding-window", grid=(21, 30, 52))
    steps = plan.pattern.keep[0, 0].sum(1).sort().values  # a block is a tile on one side, and a step on the other
    of_heads = [steps if head % 2 == 0 and heads > 1 else steps.flip(0) for head in range(heads)]
    records = torch.zeros(heads * len(steps), 8, dtype=torch.int32, device=device)
    records[:, 5] = torch.cat(of_heads)
    count = torch.tensor([len(records)], dtype=torch.int32, device=device)
    static, evened = (shares(x, len(records), 132).double() for x in (records, even_out(records, count, 132)))
    assert static.max() > before * static.mean()
    assert evened.max() < after * evened.mean()


@pytest.mark.parametrize("programs", [None, 5])
def test_all_tiles_are_recorded_once_head_by_head(programs: int | None, device: torch.device) -> None:
    sizes = [130, 40, 300, 64, 200, 1, 128, 90]
    offsets, heads = torch.tensor([0, *sizes], device=device).cumsum(0), 3
    random = torch.Generator().manual_seed(0)
    keep = (torch.rand(1, 1, len(sizes), len(sizes), generator=random) < 0.6).to(device)
    plan = Plan(Layout(Grid(1, 1, sum(sizes))), 1, heads, BlockPattern(offsets, offsets, keep))
    tiles = tiles_of(lay_out(plan), programs=programs)
    records = tiles.records[: int(tiles.count)].cpu()
    places = sorted(records[:, 1][records[:, 0] == 0].tolist())
    assert places == [tiles.rows * tile for tile in range(len(records) // heads)]
    assert sorted(records[:, :2].tolist()) == [[head, place] for head in range(heads) for place in places]
    rounds = records[:, 0].split(programs or 1)
    assert all(bool(later.min() >= earlier.max()) for earlier, later in pairwise(rounds))


@pytest.mark.parametrize("backward", [False, True])
def test_calls_on_hopper_ask_for_equal_shares(
    backward: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    q = torch.zeros(1, 1, 256, 64, dtype=torch.float16, device=device)
    offsets = torch.tensor([0, 128, 256], device=device)
    plan = Plan(Layout(Grid(1, 1, 256)), 1, 1, BlockPattern(offsets, offsets, q[..., :2, :2] == 0))
    asked = []

    def takers(plan: Plan, hopper: bool) -> None:
        asked.append(hopper)
        raise KeyboardInterrupt  # there is no kernel to run

    monkeypatch.setattr(blocked, "is_hopper", lambda device: True)
    monkeypatch.setattr(blocked, "delta_of", lambda *_: None)
    monkeypatch.setattr(blocked, "_takers", takers)
    backwards = partial(backward_blocks, q, q, q, plan, 1.0, q, q[..., 0].float(), q, None)
    with pytest.raises(KeyboardInterrupt):
        (backwards if backward else partial(attend_blocks, q, q, q, plan, 1.0))()
    assert asked == [True]


def key_shares(records: Tensor, programs: int) -> Tensor:
    """Return the steps that each thread block gets of key tiles, with those that the tiles cost in addition."""
    flat = records.flatten(0, 1).cpu().long()
    work = torch.where(flat[:, 0] < flat[:, 1], flat[:, 4] + STEPS_OF_A_TILE, 0)
    return torch.zeros(programs, dtype=torch.int64).index_add_(0, torch.arange(len(flat)) % programs, work)


@settings(max_examples=draws(15), deadline=None)
@given(
    steps=st.lists(st.lists(st.integers(0, 300), max_size=20), min_size=1, max_size=4),
    group=st.integers(1, 2),
    programs=st.sampled_from([1, 3, 8, 13]),
)
def test_key_tiles_change_places_within_a_round_of_a_head(
    steps: list[list[int]], group: int, programs: int, device: torch.device
) -> None:
    capacity = rounded_up(max(1, *map(len, steps)), programs)
    records = torch.zeros(len(steps), capacity, 8, dtype=torch.int32)
    for row, own in enumerate(steps):
        for tile, number in enumerate(sorted(own, reverse=True)):
            records[row, tile] = torch.tensor([tile, tile + 1, row, 0, number, 0, 0, 0])
    records = records.repeat_interleave(group, 0)
    records[:, :, 5] = torch.arange(len(records))[:, None]  # tells the heads of a group apart
    moved = share_out(records.to(device), group, programs).cpu()
    for row, before in zip(moved, records, strict=True):
        for after, first in zip(row.split(programs), before.split(programs), strict=True):
            assert sorted(after.tolist()) == sorted(first.tolist())
    for head in range(0, len(moved), group):
        assert all(torch.equal(moved[head, :, :2], moved[head + i, :, :2]) for i in range(group))
    share = key_shares(moved[::group], programs)
    most = max(map(max, filter(None, steps)), default=0) + STEPS_OF_A_TILE
    assert group > 1 or share.max() - share.min() <= most


@pytest.mark.parametrize(
    ("heads", "before", "after"),
    [
        (1, 1.6, 1.24),
        pytest.param(3, 1.5, 1.06, marks=pytest.mark.slow),
        pytest.param(12, 1.25, 1.02, marks=pytest.mark.slow),
    ],
)
def test_key_tiles_of_windows_at_480p(heads: int, before: float, after: float, device: torch.device) -> None:
    q = torch.empty(1, 1, 21 * 30 * 52, 1, device=device)
    plan: Plan = attnbench.select(q, q, method="sliding-window", grid=(21, 30, 52))
    steps = 2 * plan.pattern.keep[0, 0].sum(0).sort(descending=True).values
    capacity = len(steps) + q.shape[2] // 128

    def records(room: int) -> Tensor:
        made = torch.zeros(heads, room, 8, dtype=torch.int32, device=device)
        made[:, : len(steps), 1] = 128
        made[:, : len(steps), 4] = steps
        return made

    static = key_shares(records(capacity), 132).double()
    evened = key_shares(share_out(records(rounded_up(capacity, 132)), 1, 132), 132).double()
    assert static.max() > before * static.mean()
    assert evened.max() < after * evened.mean()


@pytest.mark.parametrize("kind", ["blocks", "routed"])
def test_key_tiles_stay_what_they_are(kind: str, device: torch.device) -> None:
    sizes, heads, kv_heads = [130, 40, 300, 64, 200, 1, 128, 90], 4, 2
    n, offsets = sum(sizes), torch.tensor([0, *sizes], device=device).cumsum(0)
    random = torch.Generator().manual_seed(0)
    rows = n if kind == "routed" else len(sizes)
    keep = (torch.rand(1, heads, rows, len(sizes), generator=random) < 0.6).to(device)
    if kind == "routed":
        plan = Plan(Layout(Grid(1, 1, n)), 1, heads, RoutedPattern(offsets, keep))
        routes = routes_of(plan, clustered(plan), slice(0, 1), slice(0, heads))
        plain, even = (routed_key_tiles(routes, offsets, n, heads // kv_heads, programs=x) for x in (None, 5))
    else:
        work = lay_out(Plan(Layout(Grid(1, 1, n)), 1, heads, BlockPattern(offsets, offsets, keep)))
        plain, even = (key_tiles_of(work, kv_heads, programs=x) for x in (None, 5))
    assert even.records.shape[1] % 5 == 0
    for before, after in zip(plain.records.cpu(), even.records.cpu(), strict=True):
        used = [sorted(x[x[:, 0] < x[:, 1]][:, :5].tolist()) for x in (before, after)]
        assert used[0] == used[1]


@pytest.mark.parametrize("kind", ["blocks", "routed"])
def test_the_order_of_tiles_changes_no_bit(kind: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, heads, kv_heads = [30, 40, 17, 64, 1, 28], 4, 2
    n, offsets = sum(sizes), torch.tensor([0, *sizes], device=device).cumsum(0)
    random = torch.Generator().manual_seed(0)
    keep = torch.rand(1, heads, n if kind == "routed" else len(sizes), len(sizes), generator=random) < 0.6
    q, k, v, d_output = (
        torch.randn(1, h, n, 32, generator=random).to(device, torch.float16 if device.type == "cuda" else torch.float32)
        for h in (heads, kv_heads, kv_heads, heads)
    )

    def results() -> list[Tensor]:
        kept = keep.to(device)  # a new tensor, so that no lists are kept with it
        pattern = RoutedPattern(offsets, kept) if kind == "routed" else BlockPattern(offsets, offsets, kept)
        plan = Plan(Layout(Grid(1, 1, n)), 1, heads, pattern)
        attend, backward = (attend_routed, backward_routed) if kind == "routed" else (attend_blocks, backward_blocks)
        output, lse = attend(q, k, v, plan, 0.2)
        return [output, lse, *backward(q, k, v, plan, 0.2, output, lse, d_output, None)]

    before = results()
    monkeypatch.setattr(blocked, "_takers", lambda plan, hopper: 5)
    monkeypatch.setattr(routed_backward, "_takers", lambda given, rows: 3)
    assert all(torch.equal(x, y) for x, y in zip(before, results(), strict=True))
