"""Counters on real modules: which part each operator belongs to, and when a counter agrees."""

from __future__ import annotations

import dataclasses

import pytest

from attnbench.cost.flops import WanConfig, forward_flops
from attnbench.cost.flops.modules import ModuleCount, count_modules
from attnbench.kernels.grid import Grid

SMALL = WanConfig("small", layers=3, heads=2, head_dim=24, ffn_dim=40, source="", text_dim=24, freq_dim=32, channels=5)
OURS = forward_flops(SMALL, Grid(1, 2, 3))


@pytest.mark.parametrize(("grid", "text_tokens", "batch"), [(Grid(1, 1, 1), 1, 1), (Grid(3, 2, 5), 7, 2)])
def test_both_counters_find_the_closed_form(grid: Grid, text_tokens: int, batch: int) -> None:
    pytest.importorskip("diffusers")
    ours = forward_flops(SMALL, grid, text_tokens=text_tokens, batch=batch)
    torchs, fvcores = count_modules(SMALL, grid, text_tokens=text_tokens, batch=batch)
    assert torchs.parts == ours.parts
    assert torchs.total == ours.total
    seen = {part: flops for part, flops in ours.parts.items() if part not in ("self_pairs", "cross_pairs")}
    assert {part: flops for part, flops in fvcores.parts.items() if flops is not None} == seen
    assert fvcores.total == sum(seen.values())
    assert fvcores.unseen["scaled_dot_product_attention"] == 2 * SMALL.layers
    # Five an element with weights, four without: norm2 of a block has them, norm1, norm3 and the last norm have none.
    tokens = batch * grid.tokens * SMALL.width
    assert fvcores.others == {"layer_norm": tokens * (SMALL.layers * (4 + 5 + 4) + 4)}


def count(**changes: object) -> ModuleCount:
    exact = ModuleCount("a counter", OURS.parts, {}, 0, {})
    return dataclasses.replace(exact, **changes)  # type: ignore[arg-type]  # any field


def test_a_counter_agrees_if_the_total_and_every_part_do() -> None:
    assert count().agrees(OURS)
    assert count(parts=OURS.parts | {"self_pairs": None}).agrees(OURS)
    assert not count(parts=OURS.parts | {"head": OURS.head + OURS.head // 100}).agrees(OURS)
    assert not count(outside=OURS.total // 100).agrees(OURS)


def test_differences_are_fractions_of_the_closed_form() -> None:
    off = count(parts=OURS.parts | {"ffn": 2 * OURS.ffn, "self_pairs": None})
    assert off.difference(OURS, "ffn") == 1
    assert off.difference(OURS, "self_pairs") is None
    assert off.total_difference(OURS) == pytest.approx(OURS.ffn / (OURS.total - OURS.self_pairs))
