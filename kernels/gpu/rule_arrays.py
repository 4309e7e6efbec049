"""Element rules and bands on the device: packed for the kernels, with the test of a pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.band import Band
from attnbench.kernels.gpu.widen import jit
from attnbench.kernels.gpu.work import RuleArrays
from attnbench.kernels.grid import Layout
from attnbench.kernels.plan import Plan
from attnbench.kernels.remember import remembered
from attnbench.kernels.rule import PackedRule, Rule


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a rule needs of every token, in grid order: coordinates int32 [N, axes], text int8 [N], packed."""

    positions: Tensor
    text: Tensor
    packed: PackedRule


@remembered(16)
def tokens_of(rule: Rule, layout: Layout, device: torch.device) -> Tokens:
    """Return the tokens of a layout under a rule."""
    text = torch.ones(layout.tokens, dtype=torch.int8, device=device)
    text[layout.video] = 0
    positions = rule.positions(layout, device).to(torch.int32).contiguous()
    return Tokens(positions, text, rule.pack(layout, device))


def rule_arrays(plan: Plan) -> RuleArrays | None:
    """Return what a plan keeps of masked segments in the form that the kernels read, keys in the arranged order.

    It is None for a plan without a rule and without a band.
    """
    rule, band = plan.pattern.rule, plan.pattern.band
    if band is not None:
        return _arrays_of_band(plan, band)
    if rule is None:
        return None
    tokens = tokens_of(rule, plan.layout, plan.device)
    packed = tokens.packed

    def arranged(x: Tensor) -> Tensor:
        order = plan.k_order
        return x if order is None else x[order].view(-1, x.shape[0]) if order.dim() == 3 else x[order]

    return RuleArrays(
        q_packed=packed.packed,
        q_high=packed.to_high,
        k_packed=arranged(packed.packed),
        k_low=arranged(packed.from_low),
        q_text=tokens.text,
        k_text=arranged(tokens.text),
        guard=packed.guard,
        ahead=_ahead(plan, rule),
    )


def _ahead(plan: Plan, rule: Rule) -> int | None:
    """Return how far ahead in raster order queries see, if that is all that the rule says, and no token is moved."""
    n = plan.layout.tokens
    whole = rule.axes == "raster" and rule.low[0] <= 1 - n and plan.layout.text == (0, 0)
    moved = plan.q_order is not None or plan.k_order is not None
    return max(-n, min(rule.high[0], n)) if whole and not moved else None


def _arrays_of_band(plan: Plan, band: Band) -> RuleArrays:
    """Return a band like a rule whose only coordinate is the arranged position; both bounds belong to the query."""
    n, order = plan.layout.tokens, plan.q_order
    place, ahead, no_text, guard = _places(n, plan.device)
    # No two positions differ by n, so clipping the bounds to it changes nothing.
    low, high = (x.clamp(-n, n).to(torch.int32)[..., None] for x in (band.low, band.high))
    query = place
    if order is not None:
        query = torch.empty_like(order, dtype=torch.int32).scatter_(-1, order, place.expand_as(order))
    rows = [query + low, query + high + guard]
    if any(x.shape[:2] != (1, 1) for x in rows):
        rows = [x.expand(plan.batch, plan.heads, -1) for x in rows]
    q_low, q_high = (x.reshape(-1, n).contiguous() for x in rows)
    return RuleArrays(
        q_low, q_high, k_packed=place, k_low=ahead, q_text=no_text, k_text=no_text, guard=guard, band=True
    )


@remembered(16)
def _places(tokens: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return the positions of all keys int32 [N], the same with the guard bit, no text int8 [N], and the guard bit."""
    guard = 1 << (2 * tokens).bit_length()
    place = torch.arange(tokens, dtype=torch.int32, device=device)
    return place, place + guard, torch.zeros(tokens, dtype=torch.int8, device=device), guard


def rows_of(rule: RuleArrays | None, rows: slice) -> RuleArrays | None:
    """Return the arrays for some rows of heads (b · H + h) only, renumbered from 0."""
    if rule is None or rule.k_packed.dim() == 1:
        return rule
    return RuleArrays(
        rule.q_packed, rule.q_high, rule.k_packed[rows], rule.k_low[rows], rule.q_text, rule.k_text[rows], rule.guard
    )


def rule_arguments(rule: RuleArrays | None) -> tuple[Tensor | int | None, ...]:
    """Return a rule as kernel arguments: arrays by query, arrays by key, the row strides of both, guard bits."""
    if rule is None:
        return None, None, None, None, None, None, 0, 0, 0
    q_row, k_row = (x.stride(0) if x.dim() == 2 and len(x) > 1 else 0 for x in (rule.q_packed, rule.k_packed))
    return (
        rule.q_packed, rule.q_high, rule.q_text, rule.k_packed, rule.k_low, rule.k_text, q_row, k_row, rule.guard,
    )  # fmt: skip


@jit
def keeps(
    q_packed: tl.tensor, q_high: tl.tensor, q_text: tl.tensor, k_packed: tl.tensor, k_low: tl.tensor,
    k_text: tl.tensor, guard: tl.tensor,
) -> tl.tensor:  # fmt: skip
    """Return which pairs the element rule keeps."""
    return (((k_low - q_packed) & (q_high - k_packed) & guard) == guard) | (q_text != 0) | (k_text != 0)
