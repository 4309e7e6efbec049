"""The Gluon kernels against exact attention in float64. They have no interpreter, so these tests need a Hopper GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.kernels.band import Band
from attnbench.kernels.gpu import blocked, paired_tiles
from attnbench.kernels.gpu.arrange import arrange_both
from attnbench.kernels.gpu.blocked import attend_blocks, backward_blocks
from attnbench.kernels.gpu.hopper import is_hopper
from attnbench.kernels.gpu.routed import attend_routed
from attnbench.kernels.gpu.routed_backward import backward_routed
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import partition_cuboids, partition_ranges
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import UNBOUNDED, Rule, band, causal, window
from attnbench.kernels.witness import watching

Oracle = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or not is_hopper(torch.device("cuda")), reason="needs an NVIDIA GPU of capability 9.0"
)

SIZES = [300, 128, 129, 500, 200, 256, 131, 400]


def make_plan(
    routed: bool, heads: int, batch: int, density: float, own_orders: bool, sizes: Sequence[int] = SIZES
) -> Plan:
    n = sum(sizes)
    random = torch.Generator("cuda").manual_seed(0)
    offsets = torch.tensor([0, *sizes], device="cuda").cumsum(0)
    rows = n if routed else len(sizes)
    keep = torch.rand(batch, heads, rows, len(sizes), generator=random, device="cuda") < density
    shape = (batch, heads, n) if own_orders else (n,)
    order = torch.rand(shape, generator=random, device="cuda").argsort(-1)
    pattern = RoutedPattern(offsets, keep) if routed else BlockPattern(offsets, offsets, keep)
    return Plan(Layout(Grid(1, 1, n)), batch, heads, pattern, None if routed else order, order)


def tokens_first(
    batch: int, heads: tuple[int, ...], head_dim: int, dtype: torch.dtype, n: int = sum(SIZES)
) -> list[Tensor]:
    """Return tensors [B, H, N, D] of so many heads each, as projections leave them: tokens before heads in memory."""
    random = torch.Generator("cuda").manual_seed(1)
    shapes = [(batch, n, h, head_dim) for h in heads]
    return [torch.randn(shape, generator=random, device="cuda", dtype=dtype).transpose(1, 2) for shape in shapes]


def check(output: Tensor, lse: Tensor, expected: Tensor, expected_lse: Tensor) -> None:
    torch.testing.assert_close(lse.double(), expected_lse, atol=1e-3, rtol=0)
    assert float((output.double() - expected).norm()) < 1e-2 * float(expected.norm())


def check_rows(output: Tensor, lse: Tensor, expected: Tensor, expected_lse: Tensor) -> None:
    """Check output and lse where some rows may keep nothing."""
    empty = expected_lse == -torch.inf
    assert torch.equal(lse == -torch.inf, empty)
    assert bool((output[empty] == 0).all())
    check(output, lse.masked_fill(empty, 0), expected, expected_lse.masked_fill(empty, 0))


def exact(
    oracle: Oracle, inputs: Sequence[Tensor], plan: Plan, scale: float, d_output: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Return output, lse and the gradients of ``inputs`` (q, k, v) in float64."""
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    output, lse = oracle(*leaves, plan.token_mask(), scale)
    return output.detach(), lse.detach(), torch.autograd.grad(output, leaves, d_output.double())


def check_each(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert bool(ours.isfinite().all())
        assert float((ours.double() - theirs).norm()) < 1e-2 * float(theirs.norm())


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
    q, k, v, d_output = tokens_first(batch, (heads, kv_heads, kv_heads, heads), head_dim, dtype)
    scale = head_dim**-0.5
    attend, backward = (attend_routed, backward_routed) if routed else (attend_blocks, backward_blocks)
    output, lse = attend(q, k, v, plan, scale, hopper=True)
    gradients = backward(q, k, v, plan, scale, output, lse, d_output, None, hopper=True)
    expected, expected_lse, wanted = exact(oracle, (q, k, v), plan, scale, d_output)
    torch.testing.assert_close(lse.double(), expected_lse, atol=1e-3, rtol=0)
    check_each((output, *gradients), (expected, *wanted))


@pytest.mark.parametrize(
    ("grid", "block", "text", "rule", "arranged"),
    [
        ((7, 10, 9), (7, 2, 9), (0, 0), window(2, 3, 4), True),
        ((6, 10, 16), (3, 5, 8), (40, 200), window(1, 20, 2), True),
        ((4, 20, 12), (2, 12, 12), (0, 130), window(0, 5, 5), True),
        ((3, 17, 28), (1, 9, 14), (5, 0), causal(), True),
        ((5, 12, 16), (1, 8, 16), (0, 0), band(150), False),
        ((5, 12, 16), (1, 8, 16), (0, 0), Rule("far", "raster", (400,), (900,)), False),  # some rows keep nothing
    ],
)
@pytest.mark.parametrize(("head_dim", "dtype"), [(128, torch.bfloat16), (64, torch.float16)])
def test_words_say_what_a_rule_keeps(
    grid: tuple[int, int, int], block: tuple[int, int, int], text: tuple[int, int], rule: Rule, arranged: bool,
    head_dim: int, dtype: torch.dtype, oracle: Oracle, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    layout, device = Layout(Grid(*grid), text), torch.device("cuda")
    partition = partition_cuboids(layout, block, device) if arranged else partition_ranges(layout, 128, device)
    assert (partition.order is not None) == arranged
    keep = torch.ones(1, 1, partition.blocks, partition.blocks, dtype=torch.bool, device=device)
    pattern = BlockPattern(partition.offsets, partition.offsets, keep, rule)
    plan = Plan(layout, 2, 4, pattern, partition.order, partition.order)
    assert blocked.kind_of(plan, True) == "masked"
    q, k, v = tokens_first(2, (4, 2, 2), head_dim, dtype, layout.tokens)
    d_output, scale = torch.randn_like(q), head_dim**-0.5
    with monkeypatch.context() as patched:
        patched.setattr(blocked, "rule_arrays", None)  # the rule itself is not asked
        output, lse = attend_blocks(q, k, v, plan, scale, hopper=True)
        gradients = backward_blocks(q, k, v, plan, scale, output, lse, d_output, None, hopper=True)
    expected, expected_lse, wanted = exact(oracle, (q, k, v), plan, scale, d_output)
    check_rows(output, lse, expected, expected_lse)
    check_each(gradients, wanted)


@pytest.mark.parametrize("routed", [True, False])
@pytest.mark.parametrize(
    ("rule", "heads", "kv_heads", "head_dim", "dtype"),
    [
        (causal(), 2, 2, 128, torch.bfloat16),
        (Rule("ahead", "raster", (-UNBOUNDED,), (70,)), 2, 2, 64, torch.float16),
        (Rule("behind", "raster", (-UNBOUNDED,), (-5,)), 4, 2, 128, torch.bfloat16),  # some rows keep nothing
    ],
)
def test_a_rule_about_what_lies_ahead(
    routed: bool, rule: Rule, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, oracle: Oracle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plan = replace(make_plan(routed, heads, 1, 0.5, False), q_order=None, k_order=None)
    plan = replace(plan, pattern=replace(plan.pattern, rule=rule))
    q, k, v, d_output = tokens_first(1, (heads, kv_heads, kv_heads, heads), head_dim, dtype)
    scale = head_dim**-0.5
    attend, backward = (attend_routed, backward_routed) if routed else (attend_blocks, backward_blocks)
    monkeypatch.setattr(blocked, "can_mask", lambda plan: False)  # the words of so few tokens are small
    with watching() as seen:
        output, lse = attend(q, k, v, plan, scale, hopper=True)
        gradients = backward(q, k, v, plan, scale, output, lse, d_output, None, hopper=True)
    assert {"gluon:attend_tiles", "gluon:backward_queries"} < set(seen.kernels)
    assert f"{'gluon' if heads == kv_heads else 'triton'}:backward_keys" in seen.kernels
    expected, expected_lse, wanted = exact(oracle, (q, k, v), plan, scale, d_output)
    check_rows(output, lse, expected, expected_lse)
    check_each(gradients, wanted)


@pytest.mark.parametrize(
    ("own", "heads", "head_dim", "dtype"),
    [(False, 2, 128, torch.bfloat16), (True, 4, 128, torch.bfloat16), (True, 2, 64, torch.float16)],
)
def test_bands(
    own: bool, heads: int, head_dim: int, dtype: torch.dtype, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(False, heads, 1, 0.7, own)
    low, high = [-300, -5, 40, -1000][:heads], [250, 900, 700, -3][:heads]
    bounds = (torch.tensor([x if own else x[:1]], device="cuda") for x in (low, high))
    band_of_heads = Band(*bounds, torch.rand(1, 1, len(SIZES), len(SIZES), device="cuda") < 0.2)
    plan = replace(plan, pattern=replace(plan.pattern, band=band_of_heads))
    q, k, v = tokens_first(1, (heads, heads // 2, heads // 2), head_dim, dtype)
    with watching() as seen:
        output, lse = attend_blocks(q, k, v, plan, head_dim**-0.5, hopper=True)
    assert "gluon:attend_tiles" in seen.kernels
    check_rows(output, lse, *oracle(q, k, v, plan.token_mask(), head_dim**-0.5))


@pytest.mark.parametrize("routed", [False, True])
def test_keys_in_grid_order_are_read_where_they_are(
    routed: bool, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(make_plan(routed, 4, 2, 0.4, False), k_order=None)
    q, k, v = tokens_first(2, (4, 2, 2), 128, torch.bfloat16)
    attend, place = (
        (attend_routed, "attnbench.kernels.gpu.routed.arrange_both")
        if routed
        else (attend_blocks, "attnbench.kernels.gpu.blocked.arrange_both")
    )

    def forbidden(*_: object) -> tuple[Tensor, Tensor]:
        raise AssertionError("keys were copied")

    with monkeypatch.context() as patched:
        patched.setattr(place, forbidden)
        output, lse = attend(q, k, v, plan, 128**-0.5, hopper=True)
    check(output, lse, *oracle(q, k, v, plan.token_mask(), 128**-0.5))


@pytest.mark.parametrize("sizes", [[128], [50, 79], [300, 128, 129, 500, 200, 256, 131, 400]])
@pytest.mark.parametrize("own_orders", [False, True])
@pytest.mark.parametrize(
    ("head_dim", "dtype", "first"), [(128, torch.bfloat16, "tokens"), (64, torch.float16, "heads")]
)
def test_all_heads_but_the_first_are_arranged_by_the_kernel(
    sizes: list[int], own_orders: bool, head_dim: int, dtype: torch.dtype, first: str, oracle: Oracle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plan = make_plan(False, 6, 2, 0.4, own_orders, sizes)
    q, k, v = tokens_first(2, (6, 2, 2), head_dim, dtype, sum(sizes))
    if first == "heads":
        q, k, v = (x.contiguous() for x in (q, k, v))
    copied = []

    def counting(k: Tensor, v: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
        copied.extend([k.shape[:2], v.shape[:2]])
        return arrange_both(k, v, *rest, **named)

    monkeypatch.setattr("attnbench.kernels.gpu.key_rows.arrange_both", counting)
    for _ in range(3):  # what a call leaves in memory must not help the next
        output, lse = attend_blocks(q, k, v, plan, head_dim**-0.5, hopper=True)
        check(output, lse, *oracle(q, k, v, plan.token_mask(), head_dim**-0.5))
        torch.full((2, 6, sum(sizes), head_dim), float("nan"), device="cuda", dtype=dtype)
    assert copied == [(1, 1)] * 6


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
    order = torch.rand(n, generator=random, device="cuda").argsort()
    plan = Plan(Layout(Grid(1, 1, n)), batch, heads, BlockPattern(offsets, offsets, keep), order, order)
    plan.check()
    assert paired_tiles.can_pair(plan)
    q, k, v = (
        torch.randn(batch, h, n, head_dim, generator=random, device="cuda", dtype=dtype)
        for h in (heads, kv_heads, kv_heads)
    )
    output, lse = attend_blocks(q, k, v, plan, head_dim**-0.5, hopper=True)
    check(output, lse, *oracle(q, k, v, plan.token_mask(), head_dim**-0.5))


def test_a_scale_below_zero_is_left_to_triton(oracle: Oracle) -> None:
    plan = make_plan(False, 1, 1, 0.5, False)
    random = torch.Generator("cuda").manual_seed(1)
    q, k, v = (torch.randn(1, 1, plan.layout.tokens, 64, generator=random, device="cuda").half() for _ in range(3))
    output, _ = attend_blocks(q, k, v, plan, -0.125)
    expected, _ = oracle(q, k, v, plan.token_mask(), -0.125)
    assert float((output.double() - expected).norm()) < 1e-2 * float(expected.norm())
