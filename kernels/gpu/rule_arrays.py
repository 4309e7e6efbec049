"""Element rules on the device: packed for the kernels, with the test of a pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor

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
    """Return the rule of a plan in the form that the kernels read, keys in the arranged order; None without a rule."""
    rule = plan.pattern.rule
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
    )


def rows_of(rule: RuleArrays | None, rows: slice) -> RuleArrays | None:
    """Return the arrays for some rows of heads (b · H + h) only, renumbered from 0."""
    if rule is None or rule.k_packed.dim() == 1:
        return rule
    return RuleArrays(
        rule.q_packed, rule.q_high, rule.k_packed[rows], rule.k_low[rows], rule.q_text, rule.k_text[rows], rule.guard
    )


def rule_arguments(rule: RuleArrays | None) -> tuple[Tensor | int | None, ...]:
    """Return a rule as kernel arguments: arrays by query, arrays by key, the row stride of the latter, guard bits."""
    if rule is None:
        return None, None, None, None, None, None, 0, 0
    row = rule.k_packed.stride(0) if rule.k_packed.dim() == 2 else 0
    return rule.q_packed, rule.q_high, rule.q_text, rule.k_packed, rule.k_low, rule.k_text, row, rule.guard


@jit
def keeps(
    q_packed: tl.tensor, q_high: tl.tensor, q_text: tl.tensor, k_packed: tl.tensor, k_low: tl.tensor,
    k_text: tl.tensor, guard: tl.tensor,
) -> tl.tensor:  # fmt: skip
    """Return which pairs the element rule keeps."""
    return (((k_low - q_packed) & (q_high - k_packed) & guard) == guard) | (q_text != 0) | (k_text != 0)
