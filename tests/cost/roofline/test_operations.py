"""Operations of phases against counts made pair by pair."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import attnbench
from attnbench.cost.roofline import phase_flops
from attnbench.kernels.plan import Plan


@pytest.mark.parametrize("seed", range(6))
def test_attend_is_its_products_over_kept_pairs(seed: int, random_plan: Callable[..., Plan]) -> None:
    plan, dim = random_plan(seed), 40
    pairs = int(plan.token_mask().expand(plan.batch, plan.heads, -1, -1).sum())
    forward, backward = phase_flops(plan, dim), phase_flops(plan, dim, "bwd")
    assert forward["attend"] == forward["qk"] + forward["av"] == 2 * 2 * dim * pairs
    assert forward["qk"] == forward["av"]
    assert backward == {"attend": 5 * 2 * dim * pairs}
    assert {"pool", "score"}.isdisjoint(forward)


@pytest.mark.parametrize(("kv_heads", "method"), [(2, "vmoba"), (1, "vmoba"), (2, "moba")])
def test_choosing_blocks_by_their_means_is_pooling_and_scoring(kv_heads: int, method: str) -> None:
    grid, dim = (3, 5, 7), 32
    q, k = torch.randn(1, 2, 105, dim), torch.randn(1, kv_heads, 105, dim)
    plan = attnbench.select(q, k, method=method, grid=grid)
    flops, blocks = phase_flops(plan, dim, kv_heads=kv_heads), plan.pattern.keep.shape[3]
    assert flops["pool"] == kv_heads * 105 * dim  # an addition for each number of k
    assert flops["score"] == 2 * dim * 2 * 105 * blocks
    assert flops["pool"] + flops["score"] == plan.selection_flops
