"""What an element rule keeps, in words of bits: made once for a fixed pattern, and read by the Hopper kernel.

A rule bounds the difference of coordinates axis by axis, so what a query keeps of a chunk of keys is the intersection
of what its coordinates keep on each axis. One row of words for each coordinate and chunk is small: 1.7 MB for a window
on 21 × 45 × 80 tokens, where masks of all pairs of blocks that are kept in part would take 240 MB.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attnbench.kernels.gpu.rule_arrays import tokens_of
from attnbench.kernels.gpu.work import KEYS
from attnbench.kernels.plan import Plan

MOST_WORDS = 64 * 2**20
"""Bytes of words above which the kernel asks the rule itself. A rule in raster order has a row for every token."""


def word_bytes(plan: Plan) -> int:
    """Return the bytes of the words of a plan with a rule."""
    return 4 * 4 * sum(side + 1 for side in _sides(plan)) * _most_chunks(plan)


def words_of(plan: Plan, first: Tensor) -> tuple[Tensor, Tensor]:
    """Return the words and rows of a plan whose heads share their order of keys; see ``work.MaskWords``.

    Args:
        plan: a plan with a rule.
        first: int32 [k blocks + 1], the first chunk of each block, and the number of chunks.

    Returns:
        words int32 [rows, chunks, 4], rows int32 [N, 3].
    """
    rule, pattern = plan.pattern.rule, plan.pattern
    assert rule is not None
    tokens = tokens_of(rule, plan.layout, plan.device)
    token = _tokens_of_chunks(plan, pattern.k_offsets, first)
    there = token >= 0
    at = token.clamp(min=0)
    always = (tokens.text[at] != 0) & there
    rows, row_of, begin = [], [], 0
    for axis, side in enumerate(_sides(plan)):
        query = torch.arange(side, device=plan.device)[:, None, None]
        delta = tokens.positions[at, axis] - query
        kept = (delta >= rule.low[axis]) & (delta <= rule.high[axis])
        rows.append(torch.cat([(kept & there) | always, there[None]]))  # the last row is that of text
        row_of.append(begin + torch.where(tokens.text != 0, side, tokens.positions[:, axis]))
        begin += side + 1
    unused = [torch.zeros_like(row_of[0])] * (3 - len(row_of))
    return _pack(torch.cat(rows)), torch.stack([*row_of, *unused], 1).to(torch.int32)


def _sides(plan: Plan) -> tuple[int, ...]:
    rule = plan.pattern.rule
    assert rule is not None
    return plan.layout.grid.shape if rule.axes == "grid" else (plan.layout.grid.tokens,)


def _most_chunks(plan: Plan) -> int:
    return len(plan.pattern.k_offsets) - 1 + plan.layout.tokens // KEYS


def _tokens_of_chunks(plan: Plan, offsets: Tensor, first: Tensor) -> Tensor:
    """Return the token at each place of each chunk, int64 [chunks, 128]; -1 where there is none."""
    place = torch.arange(plan.layout.tokens, device=plan.device)
    block = torch.bucketize(place, offsets[1:], right=True)
    at = first[block] * KEYS + place - offsets[block]
    token = place if plan.k_order is None else plan.k_order
    room = torch.full((_most_chunks(plan) * KEYS,), -1, device=plan.device)
    return room.scatter_(0, at, token).view(-1, KEYS)


def _pack(kept: Tensor) -> Tensor:
    """Pack bool [rows, chunks, 128] into int32 [rows, chunks, 4]."""
    bit = torch.arange(16, device=kept.device)[:, None, None] * 2 + torch.arange(2, device=kept.device)
    parts = kept.unflatten(-1, (16, 4, 2))
    words = sum((parts[..., i, :, j].to(torch.int64) << bit[i, 0, j]) for i in range(16) for j in range(2))
    assert isinstance(words, Tensor)
    return (words - ((words >> 31) << 32)).to(torch.int32).contiguous()
