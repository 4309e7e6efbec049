"""What an element rule keeps, in words of bits: made once for a fixed pattern, and read by the Hopper kernel.

A rule bounds the difference of coordinates axis by axis, so what a query keeps of a chunk of keys is the intersection
of what its coordinates keep on each axis. One line of words for each coordinate and chunk is small: 1.7 MB for a window
on 21 × 45 × 80 tokens, where masks of all pairs of blocks that are kept in part would take 240 MB.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from attnbench.kernels.gpu.rule_arrays import tokens_of
from attnbench.kernels.gpu.work import KEYS, MaskWords
from attnbench.kernels.plan import Plan

MOST_WORDS = 64 * 2**20
"""Bytes of words above which the kernel asks the rule itself. A rule in raster order has a row for every token."""


def word_bytes(plan: Plan) -> int:
    """Return the bytes of the words of a plan with a rule, queries as rows."""
    return 4 * 4 * sum(side + 1 for side in _sides(plan)) * _most_chunks(plan, plan.pattern.k_offsets)


def words_for_queries(plan: Plan, first: Tensor) -> MaskWords:
    """Return the words with queries as rows and keys as columns.

    Args:
        plan: a plan with a rule, all of whose heads share their orders.
        first: int32 [k blocks + 1], the first chunk of each block of keys, and the number of chunks.
    """
    return _words(plan, first, plan.pattern.k_offsets, plan.k_order, 1)


def words_for_keys(plan: Plan, first: Tensor) -> MaskWords:
    """Return the words with keys, in the arranged order, as rows, and queries as columns.

    ``first`` is int32 [q blocks + 1], the first chunk of each block of queries, and the number of chunks.
    """
    masks = _words(plan, first, plan.pattern.q_offsets, plan.q_order, -1)
    order = plan.k_order
    return masks if order is None else replace(masks, rows_of=masks.rows_of[order].contiguous())


def _words(plan: Plan, first: Tensor, offsets: Tensor, order: Tensor | None, sign: int) -> MaskWords:
    rule = plan.pattern.rule
    assert rule is not None
    tokens = tokens_of(rule, plan.layout, plan.device)
    token = _tokens_of_chunks(plan, offsets, order, first)
    there = token >= 0
    at = token.clamp(min=0)
    always = (tokens.text[at] != 0) & there
    lines, lines_of, begin = [], [], 0
    for axis, side in enumerate(_sides(plan)):
        row = torch.arange(side, device=plan.device)[:, None, None]
        delta = (tokens.positions[at, axis] - row) * sign
        kept = (delta >= rule.low[axis]) & (delta <= rule.high[axis])
        lines.append(torch.cat([(kept & there) | always, there[None]]))  # the last line is that of text
        lines_of.append(begin + torch.where(tokens.text != 0, side, tokens.positions[:, axis]))
        begin += side + 1
    unused = [torch.zeros_like(lines_of[0])] * (3 - len(lines_of))
    rows_of = torch.stack([*lines_of, *unused], 1).to(torch.int32)
    return MaskWords(_pack(torch.cat(lines)), rows_of, len(lines))


def _sides(plan: Plan) -> tuple[int, ...]:
    rule = plan.pattern.rule
    assert rule is not None
    return plan.layout.grid.shape if rule.axes == "grid" else (plan.layout.grid.tokens,)


def _most_chunks(plan: Plan, offsets: Tensor) -> int:
    return len(offsets) - 1 + plan.layout.tokens // KEYS


def _tokens_of_chunks(plan: Plan, offsets: Tensor, order: Tensor | None, first: Tensor) -> Tensor:
    """Return the token at each place of each chunk, int64 [chunks, 128]; -1 where there is none."""
    place = torch.arange(plan.layout.tokens, device=plan.device)
    block = torch.bucketize(place, offsets[1:], right=True)
    at = first[block] * KEYS + place - offsets[block]
    room = torch.full((_most_chunks(plan, offsets) * KEYS,), -1, device=plan.device)
    return room.scatter_(0, at, place if order is None else order).view(-1, KEYS)


def _pack(kept: Tensor) -> Tensor:
    """Pack bool [lines, chunks, 128] into int32 [lines, chunks, 4]."""
    parts = kept.unflatten(-1, (16, 4, 2))
    words = torch.zeros(parts.shape[:-3] + parts.shape[-2:-1], dtype=torch.int64, device=kept.device)
    for eight in range(16):
        for odd in range(2):
            words |= parts[..., eight, :, odd].to(torch.int64) << (2 * eight + odd)
    return (words - ((words >> 31) << 32)).to(torch.int32).contiguous()
