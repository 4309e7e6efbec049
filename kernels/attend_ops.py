"""Attention over a plan as torch operators, which torch.compile, autograd, FLOP counters and profilers see.

An operator takes tensors and numbers, so a plan is passed in parts and put together again inside. Forward and backward
are one operator each. The backward pass reuses the lists of work of the forward pass if ``remember.kept_with`` still
holds them with the kept blocks, and otherwise makes them again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.band import Band
from attnbench.kernels.flop_formulas import flop_formula
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.operators import is_seen, on_device_of, operator, unrecorded
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import Rule


def attend_by_kernels(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> tuple[Tensor, Tensor]:
    """Run a plan on our kernels.

    Args:
        q: [B, H, N, D]. k, v: [B, KV heads, N, D].
        plan: any plan.
        scale: factor of the scores.

    Returns:
        output [B, H, N, D] in grid order, and the log-sum-exp float32 [B, H, N]; both differentiable.
    """
    parts = _apart(plan)
    if is_seen((q, k, v, *parts)):
        return _attend(q, k, v, *(*parts, scale))
    return unrecorded(_run, q, k, v, plan, scale)


def _apart(plan: Plan) -> tuple[Any, ...]:
    pattern, (grid, text) = plan.pattern, (plan.layout.grid, plan.layout.text)
    rule, band = pattern.rule, pattern.band
    return (
        pattern.keep,
        pattern.q_offsets if isinstance(pattern, BlockPattern) else None,
        pattern.k_offsets,
        plan.q_order,
        plan.k_order,
        *((None, None, None) if band is None else (band.low, band.high, band.whole)),
        pattern.near if isinstance(pattern, RoutedPattern) else None,
        [*grid.shape, *text],
        "" if rule is None else rule.name,
        [] if rule is None else [*rule.low, *rule.high],
    )


def _together(
    q: Tensor, keep: Tensor, q_offsets: Tensor | None, k_offsets: Tensor, q_order: Tensor | None,
    k_order: Tensor | None, low: Tensor | None, high: Tensor | None, whole: Tensor | None, near: Tensor | None,
    layout: list[int], rule: str, bounds: list[int],
) -> Plan:  # fmt: skip
    t, h, w, before, after = layout
    axes = len(bounds) // 2
    made = Rule(rule, "grid" if axes == 3 else "raster", tuple(bounds[:axes]), tuple(bounds[axes:])) if bounds else None
    parts = (k_offsets, keep, made)
    band = None if low is None or high is None else Band(low, high, whole)
    pattern = RoutedPattern(*parts, near) if q_offsets is None else BlockPattern(q_offsets, *parts, band=band)
    all_tokens = Layout(Grid(t, h, w), (before, after))
    return Plan(all_tokens, q.shape[0], q.shape[1], pattern, q_order, k_order)


@operator("attnbench::attend")
def _attend(
    q: Tensor, k: Tensor, v: Tensor, keep: Tensor, q_offsets: Tensor | None, k_offsets: Tensor, q_order: Tensor | None,
    k_order: Tensor | None, low: Tensor | None, high: Tensor | None, whole: Tensor | None, near: Tensor | None,
    layout: list[int], rule: str, bounds: list[int], scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    plan = _together(q, keep, q_offsets, k_offsets, q_order, k_order, low, high, whole, near, layout, rule, bounds)
    return _run(q, k, v, plan, scale)


def _run(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float) -> tuple[Tensor, Tensor]:
    from attnbench.kernels.gpu.blocked import attend_blocks
    from attnbench.kernels.gpu.routed import attend_routed

    run = attend_routed if isinstance(plan.pattern, RoutedPattern) else attend_blocks
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    with on_device_of(q):
        return run(q, k, v, plan, scale)


@operator("attnbench::attend_backward")
def _attend_backward(
    q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, d_output: Tensor, d_lse: Tensor | None, keep: Tensor,
    q_offsets: Tensor | None, k_offsets: Tensor, q_order: Tensor | None, k_order: Tensor | None, low: Tensor | None,
    high: Tensor | None, whole: Tensor | None, near: Tensor | None, layout: list[int], rule: str, bounds: list[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    from attnbench.kernels.gpu.blocked import backward_blocks
    from attnbench.kernels.gpu.routed_backward import backward_routed

    plan = _together(q, keep, q_offsets, k_offsets, q_order, k_order, low, high, whole, near, layout, rule, bounds)
    run = backward_routed if q_offsets is None else backward_blocks
    q, k, v, d_output = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, d_output))
    with on_device_of(q):
        return run(q, k, v, plan, scale, output, lse, d_output, d_lse)


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *plan: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


@_attend_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    (q, k, v, *plan), numbers = inputs[:-4], inputs[-4:]  # layout, rule, bounds, scale
    ctx.save_for_backward(q, k, v, *output, *plan)
    ctx.numbers = numbers
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, d_output: Tensor | None, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, output, lse, *plan = ctx.saved_tensors
    nothing = (None,) * (len(plan) + len(ctx.numbers))
    if d_output is None and d_lse is None:
        return None, None, None, *nothing
    d_output = torch.zeros_like(output) if d_output is None else d_output
    gradients = _attend_backward(q, k, v, output, lse, d_output, d_lse, *plan, *ctx.numbers)
    return *gradients, *nothing


_attend.register_autograd(_differentiate, setup_context=_remember)


def _pairs(q: Tensor, keep: Tensor, *rest: Any) -> int:
    if isinstance(keep, torch._subclasses.FakeTensor):  # nothing to count, so every pair counts as kept
        return q.shape[0] * q.shape[1] * q.shape[2] ** 2
    return _together(q, keep, *rest).pairs


def _flops(q: Tensor, k: Tensor, v: Tensor, *plan: Any, out_val: Any = None, **_: Any) -> int:
    """Count two products of 2·D for each kept pair. The pairs are read from the tensors, which waits for the device."""
    return 4 * q.shape[3] * _pairs(q, *plan[:-1])


def _backward_flops(
    q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, d_output: Tensor, d_lse: Tensor | None, *plan: Any,
    out_val: Any = None, **_: Any,
) -> int:  # fmt: skip
    """Count five products for each kept pair: scores again, dP, dV, dK, dQ."""
    return 10 * q.shape[3] * _pairs(q, *plan[:-1])


flop_formula("attend", _flops, raw=True)
flop_formula("attend_backward", _backward_flops, raw=True)
