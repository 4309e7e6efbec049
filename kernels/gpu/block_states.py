"""The states of pairs of blocks under an element rule or a band: dropped, kept whole, or kept in part."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.gpu.rule_arrays import tokens_of
from attnbench.kernels.gpu.widen import ceil_div, jit, width_for
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.witness import launched


def classify_blocks(plan: Plan) -> Tensor:
    """Return the state of every pair of blocks under the plan's rule or band: dropped, kept whole, or kept in part."""
    pattern = plan.pattern
    assert isinstance(pattern, BlockPattern)
    keep = pattern.keep.view(torch.uint8)
    if not shared(plan):
        keep = keep.expand(plan.batch, plan.heads, -1, -1)
    states = torch.empty(keep.shape, dtype=torch.uint8, device=plan.device)
    classify = _classify_by_rule if pattern.band is None else _classify_by_band
    classify(plan, pattern, keep, states)
    return states


def _classify_by_rule(plan: Plan, pattern: BlockPattern, keep: Tensor, states: Tensor) -> None:
    assert pattern.rule is not None
    q_boxes, k_boxes = (
        _bound_blocks(plan, order, offsets)
        for order, offsets in ((plan.q_order, pattern.q_offsets), (plan.k_order, pattern.k_offsets))
    )
    lines, columns = keep.shape[2:]
    low, high = ((*bounds, 0, 0)[:3] for bounds in (pattern.rule.low, pattern.rule.high))
    width = width_for(columns, 1024)
    launched("triton:classify")
    _classify[(lines, ceil_div(columns, width), keep.shape[0] * keep.shape[1])](
        keep, q_boxes, k_boxes, states, *keep.stride(), keep.shape[1], lines, columns,
        lines * 8 * (len(q_boxes) > 1), columns * 8 * (len(k_boxes) > 1), *low, *high, AXES=len(pattern.rule.low),
        WIDTH=width, num_warps=warps_for(width),
    )  # fmt: skip


def _classify_by_band(plan: Plan, pattern: BlockPattern, keep: Tensor, states: Tensor) -> None:
    band, (lines, columns) = pattern.band, keep.shape[2:]
    assert band is not None
    q_offsets, k_offsets = (offset_rows(offsets, plan) for offsets in (pattern.q_offsets, pattern.k_offsets))
    low, high = (bound.expand(keep.shape[:2]) for bound in (band.low, band.high))
    whole = keep if band.whole is None else band.whole.view(torch.uint8).expand(keep.shape)
    width = width_for(columns, 1024)
    launched("triton:classify_band")
    _classify_band[(lines, ceil_div(columns, width), keep.shape[0] * keep.shape[1])](
        keep, whole, q_offsets, k_offsets, low, high, states, *keep.stride(), *whole.stride(), *low.stride(),
        *high.stride(), keep.shape[1], lines, columns, (lines + 1) * (len(q_offsets) > 1),
        (columns + 1) * (len(k_offsets) > 1), WHOLE=band.whole is not None, WIDTH=width, num_warps=warps_for(width),
    )  # fmt: skip


def _bound_blocks(plan: Plan, order: Tensor | None, offsets: Tensor) -> Tensor:
    """Return the bounds of the video tokens of every block: int32 [1 or B · H, blocks, 8].

    The entries are the lowest and the highest coordinate of axes 0, 1 and 2, the number of text tokens, and that of
    others.
    """
    assert plan.pattern.rule is not None
    tokens = tokens_of(plan.pattern.rule, plan.layout, plan.device)
    order, orders, order_row = rows_of_order(order)
    blocks = len(offsets) - 1
    boxes = torch.empty(orders, blocks, 8, dtype=torch.int32, device=plan.device)
    width = max(64, width_for(ceil_div(plan.layout.tokens, blocks), 1024))
    launched("triton:bound")
    _bound[(blocks, orders)](
        tokens.positions, tokens.text, order, offsets, boxes, order_row, blocks, ORDER=order is not None,
        AXES=tokens.positions.shape[1], WIDTH=width, num_warps=warps_for(width),
    )  # fmt: skip
    return boxes


def shared(plan: Plan) -> bool:
    """Return whether all heads keep the same pairs of blocks, and the rule or band keeps the same part of them."""
    pattern, band = plan.pattern, plan.pattern.band
    orders = [order for order in (plan.q_order, plan.k_order) if order is not None and order.dim() == 3]
    if pattern.has_own_offsets or not (band is None or all(band.shared)):
        return False
    return pattern.keep.shape[0] * pattern.keep.shape[1] == 1 and (pattern.rule is None or not orders)


def offset_rows(offsets: Tensor, plan: Plan) -> Tensor:
    """Return offsets as rows, int64 [1, blocks + 1], or [B · H, blocks + 1] if they are given by head."""
    if offsets.dim() == 1:
        return offsets[None]
    return offsets.expand(plan.batch, plan.heads, -1).reshape(-1, offsets.shape[-1]).contiguous()


def rows_of_order(order: Tensor | None) -> tuple[Tensor | None, int, int]:
    """Return an order as rows, the number of different rows, and the stride between them."""
    if order is None:
        return None, 1, 0
    n = order.shape[-1]
    return order.contiguous(), order.numel() // n, n


def warps_for(width: int) -> int:
    """Return the warps of a program that works on this many elements."""
    return max(1, min(8, width // 512))


@jit
def _bound(
    positions: tl.tensor, text: tl.tensor, order: tl.tensor, offsets: tl.tensor, boxes: tl.tensor,
    order_row: tl.tensor, blocks: tl.tensor, ORDER: tl.constexpr, AXES: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    block, sheet = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start, end = tl.load(offsets + block).to(tl.int32), tl.load(offsets + block + 1).to(tl.int32)
    box = boxes + (sheet * blocks + block) * 8
    for axis in tl.static_range(AXES):
        low, high = tl.full([WIDTH], 2147483647, tl.int32), tl.full([WIDTH], -1, tl.int32)
        texts, others = tl.zeros([WIDTH], tl.int32), tl.zeros([WIDTH], tl.int32)
        for begin in range(start, end, WIDTH):
            token = begin + tl.arange(0, WIDTH)
            inside = token < end
            if ORDER:
                token = tl.load(order + sheet * order_row + token, mask=inside, other=0).to(tl.int32)
            is_text = tl.load(text + token, mask=inside, other=1) != 0
            video = inside & (is_text == 0)
            where = tl.load(positions + token * AXES + axis, mask=video, other=0)
            low, high = tl.where(video, tl.minimum(low, where), low), tl.where(video, tl.maximum(high, where), high)
            texts += (inside & is_text).to(tl.int32)
            others += video.to(tl.int32)
        tl.store(box + 2 * axis, tl.min(low, 0))
        tl.store(box + 2 * axis + 1, tl.max(high, 0))
        if axis == 0:
            tl.store(box + 6, tl.sum(texts, 0))
            tl.store(box + 7, tl.sum(others, 0))


@jit
def _classify(
    keep: tl.tensor, q_boxes: tl.tensor, k_boxes: tl.tensor, states: tl.tensor, batch_stride: tl.tensor,
    head_stride: tl.tensor, line_stride: tl.tensor, column_stride: tl.tensor, heads: tl.tensor, lines: tl.tensor,
    columns: tl.tensor, q_row: tl.tensor, k_row: tl.tensor, low_0: tl.tensor, low_1: tl.tensor, low_2: tl.tensor,
    high_0: tl.tensor, high_1: tl.tensor, high_2: tl.tensor, AXES: tl.constexpr, WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Classify like ``Rule.classify``; text keeps everything, and a mixed block is never kept or dropped as a whole."""
    line, sheet = tl.program_id(0), tl.program_id(2).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < columns
    q_box = q_boxes + sheet * q_row + line * 8
    k_box = k_boxes + sheet * k_row + column * 8
    some, every = inside, inside
    for axis in tl.static_range(AXES):
        low = low_0 if axis == 0 else low_1 if axis == 1 else low_2
        high = high_0 if axis == 0 else high_1 if axis == 1 else high_2
        least = tl.load(k_box + 2 * axis, mask=inside, other=0) - tl.load(q_box + 2 * axis + 1)
        most = tl.load(k_box + 2 * axis + 1, mask=inside, other=0) - tl.load(q_box + 2 * axis)
        some = some & (least <= high) & (most >= low)
        every = every & (least >= low) & (most <= high)
    q_text, q_video = tl.load(q_box + 6) > 0, tl.load(q_box + 7) > 0
    k_text, k_video = tl.load(k_box + 6, mask=inside, other=0) > 0, tl.load(k_box + 7, mask=inside, other=0) > 0
    pure = (k_video == 0) | (q_video == 0)
    mixed = (k_text | q_text) & (pure == 0)
    state = tl.where(pure | (every & (mixed == 0)), 1, tl.where(some | mixed, 2, 0))
    at = keep + (sheet // heads) * batch_stride + (sheet % heads) * head_stride + line.to(tl.int64) * line_stride
    kept = tl.load(at + column * column_stride, mask=inside, other=0) != 0
    place = states + (sheet * lines + line) * columns + column
    tl.store(place, tl.where(kept, state, 0).to(tl.uint8), mask=inside)


@jit
def _classify_band(
    keep: tl.tensor, whole: tl.tensor, q_offsets: tl.tensor, k_offsets: tl.tensor, low: tl.tensor, high: tl.tensor,
    states: tl.tensor, batch_stride: tl.tensor, head_stride: tl.tensor, line_stride: tl.tensor,
    column_stride: tl.tensor, whole_batch: tl.tensor, whole_head: tl.tensor, whole_line: tl.tensor,
    whole_column: tl.tensor, low_batch: tl.tensor, low_head: tl.tensor, high_batch: tl.tensor, high_head: tl.tensor,
    heads: tl.tensor, lines: tl.tensor, columns: tl.tensor, q_row: tl.tensor, k_row: tl.tensor, WHOLE: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Classify like ``Band.classify``, among the kept blocks."""
    line, sheet = tl.program_id(0), tl.program_id(2).to(tl.int64)
    b, h = sheet // heads, sheet % heads
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = column < columns
    q_at, k_at = q_offsets + sheet * q_row + line, k_offsets + sheet * k_row + column
    q_first, q_last = tl.load(q_at), tl.load(q_at + 1) - 1
    k_first, k_last = tl.load(k_at, mask=inside, other=0), tl.load(k_at + 1, mask=inside, other=0) - 1
    lowest = tl.load(low + b * low_batch + h * low_head)
    highest = tl.load(high + b * high_batch + h * high_head)
    least, most = k_first - q_last, k_last - q_first
    filled = (q_first <= q_last) & (k_first <= k_last)
    some = filled & (least <= highest) & (most >= lowest)
    every = filled & (least >= lowest) & (most <= highest)
    if WHOLE:
        at = whole + b * whole_batch + h * whole_head + line.to(tl.int64) * whole_line
        every = every | (tl.load(at + column * whole_column, mask=inside, other=0) != 0)
    state = tl.where(every, 1, tl.where(some, 2, 0))
    at = keep + b * batch_stride + h * head_stride + line.to(tl.int64) * line_stride
    kept = tl.load(at + column * column_stride, mask=inside, other=0) != 0
    place = states + (sheet * lines + line) * columns + column
    tl.store(place, tl.where(kept, state, 0).to(tl.uint8), mask=inside)
