"""The Gluon kernels against exact attention in float64. They have no interpreter, so these tests need a Hopper GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attnbench.kernels.gpu import blocked, paired_tiles
from attnbench.kernels.gpu.blocked import attend_blocks, backward_blocks
from attnbench.kernels.gpu.hopper import is_hopper
from attnbench.kernels.gpu.routed import attend_routed
from attnbench.kernels.gpu.routed_backward import backward_routed
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan

Oracle = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or not is_hopper(torch.device("cuda")), reason="needs an NVIDIA GPU of capability 9.0"
)

SIZES = [300, 128, 129, 500, 200, 256, 131, 400]


def make_plan(routed: bool, heads: int, batch: int, density: float, own_orders: bool) -> Plan:
    n = sum(SIZES)
    random = torch.Generator("cuda").manual_seed(0)
    offsets = torch.tensor([0, *SIZES], device="cuda").cumsum(0)
    rows = n if routed else len(SIZES)
    keep = torch.rand(batch, heads, rows, len(SIZES), generator=random, device="cuda") < density
    shape = (batch, heads, n) if own_orders else (n,)
    order = torch.rand(shape, generator=random, device="cuda").argsort(-1)
    pattern = RoutedPattern(offsets, keep) if routed else BlockPattern(offsets, offsets, keep)
    return Plan(Layout(Grid(1, 1, n)), batch, heads, pattern, None if routed else order, order)


@pytest.mark.parametrize("routed", [True, False])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "batch", "head_dim", "density", "own_orders", "dtype"),
    [
        (4, 2, 2, 128, 0.3, False, torch.bfloat16),
        (2, 2, 1, 64, 0.5, True, torch.float16),
        (2, 1, 1, 128, 0.1, False, torch.float16),
        (2, 1, 1, 64, 1.0, False, torch.bfloat16),
    ],
)
def test_equals_exact_attention(
    routed: bool, heads: int, kv_heads: int, batch: int, head_dim: int, density: float, own_orders: bool,
    dtype: torch.dtype, oracle: Oracle,
) -> None:  # fmt: skip
    plan = make_plan(routed, heads, batch, density, own_orders)
    random = torch.Generator("cuda").manual_seed(1)
    shapes = [(batch, plan.layout.tokens, h, head_dim) for h in (heads, kv_heads, kv_heads, heads)]
    q, k, v, d_output = (
        torch.randn(shape, generator=random, device="cuda", dtype=dtype).transpose(1, 2) for shape in shapes
    )
    scale = head_dim**-0.5
    attend, backward = (attend_routed, backward_routed) if routed else (attend_blocks, backward_blocks)
    output, lse = attend(q, k, v, plan, scale, hopper=True)
    gradients = backward(q, k, v, plan, scale, output, lse, d_output, None, hopper=True)
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v)]
    expected, expected_lse = oracle(*leaves, plan.token_mask(), scale)
    wanted = torch.autograd.grad(expected, leaves, d_output.double())
    torch.testing.assert_close(lse.double(), expected_lse.detach(), atol=1e-3, rtol=0)
    for ours, theirs in zip((output, *gradients), (expected.detach(), *wanted), strict=True):
        assert bool(ours.isfinite().all())
        assert float((ours.double() - theirs).norm()) < 1e-2 * float(theirs.norm())


@pytest.mark.parametrize(
    ("routed", "run", "head_dim", "tokens_first", "dtype"),
    [
        (False, 8, 128, False, torch.bfloat16),
        (False, 8, 64, True, torch.float16),
        (False, 16, 128, True, torch.bfloat16),
        (False, 48, 64, False, torch.bfloat16),
        (False, 0, 128, True, torch.bfloat16),
        (True, 0, 128, True, torch.bfloat16),
    ],
)
def test_keys_are_read_where_they_are(
    routed: bool, run: int, head_dim: int, tokens_first: bool, dtype: torch.dtype, oracle: Oracle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    random = torch.Generator("cuda").manual_seed(0)
    batch, heads, kv_heads = 2, 4, 2
    sizes = torch.tensor(SIZES, device="cuda") // 48 * 48
    n = int(sizes.sum())
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    keep = torch.rand(batch, heads, n if routed else len(sizes), len(sizes), generator=random, device="cuda") < 0.4
    starts = torch.rand(n // max(run, 1), generator=random, device="cuda").argsort() * run
    order = (starts[:, None] + torch.arange(run, device="cuda")).flatten() if run else None
    pattern = RoutedPattern(offsets, keep) if routed else BlockPattern(offsets, offsets, keep)
    plan = Plan(Layout(Grid(1, 1, n)), batch, heads, pattern, None, order, k_run=max(run, 1))
    plan.check()
    shapes = [(batch, n, h, head_dim) if tokens_first else (batch, h, n, head_dim) for h in (heads, kv_heads, kv_heads)]
    q, k, v = (torch.randn(shape, generator=random, device="cuda", dtype=dtype) for shape in shapes)
    if tokens_first:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    attend, module = (attend_routed, "routed") if routed else (attend_blocks, "blocked")

    def forbidden(*_: object) -> Tensor:
        raise AssertionError("keys were copied")

    with monkeypatch.context() as patched:
        patched.setattr(f"attnbench.kernels.gpu.{module}.arrange", forbidden)
        output, lse = attend(q, k, v, plan, head_dim**-0.5, hopper=True)
    expected, expected_lse = oracle(q, k, v, plan.token_mask(), head_dim**-0.5)
    torch.testing.assert_close(lse.double(), expected_lse, atol=1e-3, rtol=0)
    assert float((output.double() - expected).norm()) < 1e-2 * float(expected.norm())


@pytest.mark.parametrize("steps_worth", [-1.0, 2.4, 1e9])
@pytest.mark.parametrize(("shared", "head_dim", "dtype"), [(True, 128, torch.bfloat16), (False, 64, torch.float16)])
def test_small_tiles_in_pairs(
    steps_worth: float, shared: bool, head_dim: int, dtype: torch.dtype, oracle: Oracle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(paired_tiles, "STEPS_WORTH_A_PAIRED_ONE", steps_worth)
    monkeypatch.setattr(blocked, "are_kept", lambda plan: True)  # pair the tiles of heads of their own too
    random = torch.Generator("cuda").manual_seed(0)
    batch, heads, kv_heads = 2, 4, 2
    sizes = torch.tensor([64, 64, 48, 64, 16, 64, 64, 80, 64, 64, 40, 64, 64], device="cuda")
    n = int(sizes.sum())
    offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    shape = (1, 1) if shared else (batch, heads)
    keep = torch.rand(*shape, len(sizes), len(sizes), generator=random, device="cuda") < 0.4
    keep[:, :, 5] = False
    run = 8 if shared else 1
    starts = torch.rand(n // run, generator=random, device="cuda").argsort() * run
    order = (starts[:, None] + torch.arange(run, device="cuda")).flatten()
    plan = Plan(Layout(Grid(1, 1, n)), batch, heads, BlockPattern(offsets, offsets, keep), order, order, k_run=run)
    plan.check()
    assert paired_tiles.can_pair(plan)
    q, k, v = (
        torch.randn(batch, h, n, head_dim, generator=random, device="cuda", dtype=dtype)
        for h in (heads, kv_heads, kv_heads)
    )
    output, lse = attend_blocks(q, k, v, plan, head_dim**-0.5, hopper=True)
    expected, expected_lse = oracle(q, k, v, plan.token_mask(), head_dim**-0.5)
    torch.testing.assert_close(lse.double(), expected_lse, atol=1e-3, rtol=0)
    assert float((output.double() - expected).norm()) < 1e-2 * float(expected.norm())


def test_a_scale_below_zero_is_left_to_triton(oracle: Oracle) -> None:
    plan = make_plan(False, 1, 1, 0.5, False)
    random = torch.Generator("cuda").manual_seed(1)
    q, k, v = (torch.randn(1, 1, plan.layout.tokens, 64, generator=random, device="cuda").half() for _ in range(3))
    output, _ = attend_blocks(q, k, v, plan, -0.125)
    expected, _ = oracle(q, k, v, plan.token_mask(), -0.125)
    assert float((output.double() - expected).norm()) < 1e-2 * float(expected.norm())
