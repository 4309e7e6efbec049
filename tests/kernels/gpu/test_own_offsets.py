"""Plans whose heads have blocks of their own, some of them empty, on the GPU path against whole float64 matrices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.engines.base import Task
from attnbench.kernels.engines.triton_engine import TRITON
from attnbench.kernels.gpu.blocked import attend_blocks, backward_blocks, executed_pairs
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from tests.kernels.gpu.draws import draws

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Oracle = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def mask_of(plan: Plan) -> Tensor:
    """Which pairs are kept, bool [B, H, N, N], block by block."""
    n, pattern = plan.layout.tokens, plan.pattern
    sides = []
    for order, offsets in ((plan.q_order, pattern.q_offsets), (plan.k_order, pattern.k_offsets)):
        order = torch.arange(n, device=DEVICE) if order is None else order
        sides.append(
            (
                order.expand(plan.batch, plan.heads, n).tolist(),
                offsets.expand(plan.batch, plan.heads, offsets.shape[-1]).tolist(),
            )
        )
    keep = pattern.keep.expand(plan.batch, plan.heads, -1, -1).tolist()
    mask = torch.zeros(plan.batch, plan.heads, n, n, dtype=torch.bool)
    for b in range(plan.batch):
        for h in range(plan.heads):
            (q_order, q_at), (k_order, k_at) = ((order[b][h], offsets[b][h]) for order, offsets in sides)
            for i, row in enumerate(keep[b][h]):
                for j, kept in enumerate(row):
                    for query in q_order[q_at[i] : q_at[i + 1]]:
                        mask[b, h, query, k_order[k_at[j] : k_at[j + 1]]] |= kept
    return mask.to(DEVICE)


@st.composite
def ragged_plans(draw: st.DrawFn) -> tuple[Plan, int]:
    """Plans of one or both sides by head, of short and long clusters, and a number of kv heads."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    n, batch, heads = draw(st.integers(1, 48)), draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4]))

    def offsets(blocks: int, *shape: int) -> Tensor:
        cuts = torch.randint(n + 1, (*shape, blocks - 1), generator=random).sort(-1).values
        ends = torch.zeros(*shape, 1, dtype=torch.int64)
        return torch.cat([ends, cuts, ends + n], -1)

    def order() -> Tensor | None:
        kind = draw(st.sampled_from(["grid", "one for all", "one a head"]))
        if kind == "grid":
            return None
        return (
            torch.randperm(n, generator=random)
            if kind == "one for all"
            else torch.rand(batch, heads, n, generator=random).argsort(-1)
        ).to(DEVICE)

    def side(own: bool, blocks: int) -> Tensor:
        if own:
            shape = (draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, heads])))
            return offsets(blocks, *shape)
        return torch.arange(n + 1) if n <= blocks else torch.tensor([0, *range(1, blocks), n])

    own = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    q_offsets, k_offsets = (side(mine, draw(st.integers(1, 9))).to(DEVICE) for mine in own)
    shape = (draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, heads])))
    keep = torch.rand(*shape, q_offsets.shape[-1] - 1, k_offsets.shape[-1] - 1, generator=random) < draw(
        st.sampled_from([0.0, 0.4, 0.8, 1.0])
    )
    pattern = BlockPattern(q_offsets, k_offsets, keep.to(DEVICE))
    plan = Plan(Layout(Grid(n, 1, 1)), batch, heads, pattern, order(), order())
    plan.check()
    return plan, draw(st.sampled_from([g for g in (1, 2, 4) if heads % g == 0]))


def tensors(plan: Plan, kv_heads: int, head_dim: int) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    heads = (plan.heads, kv_heads, kv_heads, plan.heads)
    return tuple(
        torch.randn(plan.batch, count, plan.layout.tokens, head_dim, generator=random).to(DEVICE, dtype)
        for count in heads
    )


@settings(max_examples=draws(15), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=ragged_plans(), head_dim=st.sampled_from([8, 24]))
def test_output_and_gradients_equal_whole_matrices(case: tuple[Plan, int], head_dim: int, oracle: Oracle) -> None:
    plan, kv_heads = case
    q, k, v, d_output = tensors(plan, kv_heads, head_dim)
    scale, tolerance = head_dim**-0.5, 2e-5 if q.dtype == torch.float32 else 3e-2
    output, lse = attend_blocks(q, k, v, plan, scale)
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    mask = mask_of(plan)
    assert torch.equal(mask, plan.token_mask())
    wanted, wanted_lse = oracle(*leaves, mask, scale)
    torch.testing.assert_close(output.double(), wanted.detach(), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse.double(), wanted_lse.detach(), atol=tolerance, rtol=tolerance)
    gradients = backward_blocks(q, k, v, plan, scale, output, lse, d_output, None)
    for found, exact in zip(gradients, torch.autograd.grad(wanted, leaves, d_output.double()), strict=True):
        torch.testing.assert_close(found.double(), exact, atol=4 * tolerance, rtol=4 * tolerance)
    assert executed_pairs(plan) >= int(mask.sum())


@pytest.mark.parametrize("empty", [0, 1, 2, 3])
def test_an_empty_block_joins_and_parts_nothing(empty: int, oracle: Oracle) -> None:
    sizes = torch.tensor([20, 20, 20, 20])
    sizes[empty] = 0
    offsets = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))[None, None].to(DEVICE)
    keep = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.bool, device=DEVICE)
    plan = Plan(Layout(Grid(60, 1, 1)), 1, 1, BlockPattern(offsets, offsets, keep[None, None]))
    q, k, v, _ = tensors(plan, 1, 64)
    output, _ = attend_blocks(q, k, v, plan, 0.125)
    wanted, _ = oracle(q, k, v, mask_of(plan), 0.125)
    torch.testing.assert_close(output.double(), wanted, atol=3e-2 if q.is_cuda else 2e-5, rtol=2e-5)


def test_the_engine_takes_such_plans() -> None:
    offsets = torch.tensor([[[0, 0, 4]]], device=DEVICE)
    keep = torch.ones(1, 1, 2, 2, dtype=torch.bool, device=DEVICE)
    plan = Plan(Layout(Grid(4, 1, 1)), 1, 2, BlockPattern(offsets, offsets, keep))
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    assert TRITON.lacks(plan, Task(DEVICE, dtype, 64, 2, 2, False, True)) is None
