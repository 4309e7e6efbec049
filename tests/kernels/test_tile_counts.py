from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import causal
from attnbench.kernels.tile_counts import tile_work

SEEDS = ("2", "5", "8", "11", "12")  # rules, text, orders and both kinds of pattern; grouped blocks take too long here


def up(size: int, unit: int) -> int:
    return -(-size // unit)


def runs_of(kept: list[bool], sizes: list[int]) -> list[int]:
    """Keys of each run of neighbouring kept blocks."""
    runs, open_run = [], False
    for keep, size in zip(kept, sizes, strict=True):
        if keep and open_run:
            runs[-1] += size
        elif keep:
            runs.append(size)
        open_run = keep
    return runs


@pytest.mark.parametrize("seed", range(25))
def test_tiles_of_a_routed_plan_are_those_of_plain_loops(seed: int, random_plan: Callable[..., Plan]) -> None:
    plan = random_plan(seed, kind="routed", most=(3, 8, 20))
    sizes = plan.pattern.k_offsets.diff().tolist()
    group = 1 if len(sizes) <= 12 else 4
    tiles = steps = entries = 0
    for b in range(plan.batch):
        for h in range(plan.heads):
            rows = plan.keep_of(b, h).tolist()
            for first in range(0, len(sizes), group):
                same: dict[tuple[bool, ...], int] = defaultdict(int)
                for row in rows:
                    same[tuple(row[first : first + group])] += 1
                for pattern, queries in same.items():
                    if any(pattern):
                        runs = runs_of(list(pattern), sizes[first : first + group])
                        tiles += up(queries, 128)
                        steps += up(queries, 128) * sum(up(run, 128) for run in runs)
                        entries += queries
    work = tile_work(plan, 1)
    assert (work.tiles, work.steps, work.entries) == (tiles, steps, entries)
    assert work.executed_pairs == steps * 128 * 128
    assert work.groups == up(len(sizes), group)


@pytest.mark.parametrize("seed", range(12))
def test_blocks_that_are_near_each_other_are_counted_as_the_kernels_take_them(
    seed: int, random_plan: Callable[..., Plan]
) -> None:
    plan = random_plan(seed, kind="routed", most=(3, 8, 20))
    pattern = plan.pattern
    near = torch.randperm(len(pattern.k_offsets) - 1, generator=torch.Generator().manual_seed(seed))
    moved = torch.nn.functional.pad(pattern.k_offsets.diff()[near].cumsum(0), (1, 0))
    work = tile_work(replace(plan, pattern=RoutedPattern(pattern.k_offsets, pattern.keep, near=near)), 1)
    other = tile_work(replace(plan, pattern=RoutedPattern(moved, pattern.keep[..., near])), 1)
    if near.numel() > 12 and (plan.k_order is None or plan.k_order.dim() == 1):
        assert (work.tiles, work.steps, work.entries) == (other.tiles, other.steps, other.entries)
    else:  # the kernels take these as they are numbered
        plain = tile_work(replace(plan, pattern=RoutedPattern(pattern.k_offsets, pattern.keep)), 1)
        assert (work.tiles, work.steps, work.entries) == (plain.tiles, plain.steps, plain.entries)


@pytest.mark.parametrize("seed", range(25))
def test_tiles_of_a_plan_of_whole_blocks_are_those_of_plain_loops(seed: int, random_plan: Callable[..., Plan]) -> None:
    plan = random_plan(seed, kind="blocked", rules=False, most=(3, 8, 20))
    pattern = plan.pattern
    q_sizes, k_sizes = pattern.q_offsets.diff().tolist(), pattern.k_offsets.diff().tolist()
    n = plan.layout.tokens

    def size_for(blocks: int, most: int) -> int:
        return next(power for power in (16, 32, 64, 128) if power >= min(most, up(n, blocks)))

    rows = size_for(len(q_sizes), 128)
    keys = size_for(len(k_sizes), 128 if rows == 128 else 64)
    tiles = steps = 0
    for b in range(plan.batch):
        for h in range(plan.heads):
            for size, kept in zip(q_sizes, plan.keep_of(b, h).tolist(), strict=True):
                tiles += up(size, rows)
                steps += up(size, rows) * sum(up(run, keys) for run in runs_of(kept, k_sizes))
    work = tile_work(plan, 1)
    assert (work.rows, work.keys) == (rows, keys)
    assert (work.tiles, work.steps) == (tiles, steps)
    assert work.entries == plan.batch * plan.heads * n


@pytest.mark.parametrize("seed", range(20))
def test_tokens_that_are_read_are_those_that_the_mask_names(seed: int, random_plan: Callable[..., Plan]) -> None:
    plan = random_plan(seed, rules=False, most=(2, 4, 5))
    mask = plan.token_mask()
    kv_heads = 1 if seed % 2 else plan.heads
    of_own_order = plan.k_order is not None and plan.k_order.dim() == 3
    kv_rows = plan.heads if of_own_order else kv_heads
    by_kv_head = mask.view(plan.batch, kv_rows, -1, mask.shape[3])
    work = tile_work(plan, kv_heads)
    assert work.active_keys == int(by_kv_head.any(2).sum())
    if isinstance(plan.pattern, RoutedPattern):
        assert work.active_queries == int(mask.any(3).sum())


def test_blocks_that_a_rule_drops_take_no_step_and_those_it_cuts_a_run_of_their_own() -> None:
    # Four blocks of 128 keys under causal: behind the queries' block nothing is left, in it pair decides by pair.
    layout = Layout(Grid(1, 1, 512))
    offsets = torch.arange(0, 513, 128)
    keep = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    without = tile_work(Plan(layout, 1, 1, BlockPattern(offsets, offsets, keep)), 1)
    under = tile_work(Plan(layout, 1, 1, BlockPattern(offsets, offsets, keep, causal())), 1)
    assert (without.steps, without.segments) == (16, 4)
    assert (under.steps, under.segments) == (1 + 2 + 3 + 4, 1 + 2 + 2 + 2)


@pytest.mark.parametrize(
    ("video", "text", "steps", "runs"), [(46, 2, 2 + 3 + 3, 2 + 2 + 1), (32, 16, 2 + 3 + 3, 2 + 3 + 1)]
)
def test_a_rule_never_drops_a_block_with_text(video: int, text: int, steps: int, runs: int) -> None:
    # Three blocks of 16 under causal, text in the last. Where it is mixed with video, pair decides by pair.
    offsets = torch.arange(0, 49, 16)
    pattern = BlockPattern(offsets, offsets, torch.ones(1, 1, 3, 3, dtype=torch.bool), causal())
    work = tile_work(Plan(Layout(Grid(1, 1, video), (0, text)), 1, 1, pattern), 1)
    assert (work.rows, work.keys) == (16, 16)
    assert (work.steps, work.segments) == (steps, runs)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without a GPU")
def test_the_lists_that_our_kernels_make_execute_as_many_pairs() -> None:
    # In a process of its own: Triton decides at import whether kernels are compiled or interpreted.
    script = Path(__file__).parents[1] / "plans.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), *SEEDS],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found = json.loads(done.stdout)
    assert len(found) == len(SEEDS)
    for executed, modelled in found:
        assert executed == modelled > 0
