"""How much of a plan falls on each pair of frames: a map that is small whatever the sequence is."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbench.kernels.plan import Plan, bounding_boxes

MOST_FRAMES = 64
MOST_PAIRS = 2**37
"""Pairs that are looked at one by one, at most, where they cannot be counted by blocks: 24 heads of 75,600 tokens."""

_CHUNK = 2**22


def frame_shares(plan: Plan) -> Tensor | None:
    """Return which share of the pairs between two frames is kept, exactly: the mean over batch and heads, without text.

    No N × N mask is made: pairs are counted block by block, or in chunks where a rule or a band cuts blocks unevenly.

    Returns:
        float64 [T, T] on the CPU, query frame by key frame; None for more than ``MOST_FRAMES`` frames, or if more than
        ``MOST_PAIRS`` pairs would have to be looked at one by one.
    """
    grid = plan.layout.grid
    if grid.t > MOST_FRAMES:
        return None
    same_b, same_h = plan.shared_by
    heads = [(b, h) for b in range(1 if same_b else plan.batch) for h in range(1 if same_h else plan.heads)]
    by_blocks = plan.pattern.band is None
    total = torch.zeros(grid.t, grid.t, dtype=torch.float64)
    left = MOST_PAIRS
    for b, h in heads:
        found = _by_blocks(plan, b, h) if by_blocks else None
        if found is None:
            left -= plan.layout.tokens**2
            if left < 0:
                return None
            found = _one_by_one(plan, b, h)
        total += found.cpu()
    return total / (len(heads) * (grid.h * grid.w) ** 2)


def _by_blocks(plan: Plan, b: int, h: int) -> Tensor | None:
    """Return the kept pairs of each two frames, float64 [T, T], from counts of whole blocks cut at frames.

    Sums of whole numbers below 2^53 are exact. None if a rule decides about blocks that do not fill their boxes.
    """
    rule, keep, frames = plan.pattern.rule, plan.keep_of(b, h), plan.layout.grid.t
    if rule is None:
        q, k = _histogram(plan, "q", b, h), _histogram(plan, "k", b, h)
        total = q.new_zeros(frames, frames)
        step = max(1, _CHUNK // keep.shape[1])
        for part, kept in zip(q.split(step), keep.split(step), strict=True):
            total += part.T @ (kept.double() @ k)
        return total
    q_cells, k_cells = (_cells(plan, side, b, h) for side in ("q", "k"))
    if q_cells is None or k_cells is None:
        return None
    (q_block, q_frame, q_box), (k_block, k_frame, k_box) = q_cells, k_cells
    total = keep.new_zeros(frames, frames, dtype=torch.float64)
    for rows in torch.arange(len(q_block), device=keep.device).split(max(1, _CHUNK // len(k_block))):
        box = q_box[0][rows][:, None], q_box[1][rows][:, None]
        counts = rule.count(box, (k_box[0][None], k_box[1][None])) * keep[q_block[rows]][:, k_block]
        by_key = keep.new_zeros(len(rows), frames, dtype=torch.float64).index_add_(1, k_frame, counts.double())
        total.index_add_(0, q_frame[rows], by_key)
    return total


def _one_by_one(plan: Plan, b: int, h: int) -> Tensor:
    grid, video = plan.layout.grid, plan.layout.video
    total = torch.zeros(grid.t, grid.t, dtype=torch.float64, device=plan.device)
    queries = torch.arange(video.start, video.stop, device=plan.device)
    for rows in queries.split(max(1, _CHUNK // plan.layout.tokens)):
        kept = plan.key_mask_of(b, h, rows)[:, video].unflatten(1, (grid.t, -1)).sum(-1)
        total.index_add_(0, (rows - video.start) // (grid.h * grid.w), kept.double())
    return total


def _places(plan: Plan, side: str, b: int, h: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return token, block and frame of every video token, in the arranged order."""
    grid, order = plan.layout.grid, plan.order_of(side, b, h)
    tokens = torch.arange(plan.layout.tokens, device=plan.device) if order is None else order
    block = torch.repeat_interleave(plan.offsets_of(side, b, h).diff())
    at = tokens - plan.layout.text[0]
    video = (at >= 0) & (at < grid.tokens)
    return tokens[video], block[video], at[video] // (grid.h * grid.w)


def _histogram(plan: Plan, side: str, b: int, h: int) -> Tensor:
    """Return how many tokens of each frame each block holds, float64 [blocks, T]."""
    frames, blocks = plan.layout.grid.t, plan.offsets_of(side, b, h).shape[0] - 1
    _, block, frame = _places(plan, side, b, h)
    return torch.bincount(block * frames + frame, minlength=blocks * frames).view(blocks, frames).double()


def _cells(plan: Plan, side: str, b: int, h: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]] | None:
    """Return block, frame and box of every part of a block in one frame; None if one does not fill its box."""
    frames = plan.layout.grid.t
    tokens, block, frame = _places(plan, side, b, h)
    cell, place = (block * frames + frame).sort(stable=True)
    number, sizes = cell.unique_consecutive(return_counts=True)
    offsets = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    chosen = tokens[place]
    boxes = bounding_boxes(plan.positions[chosen], plan.is_text[chosen], offsets)
    return (number // frames, number % frames, (boxes.low, boxes.high)) if boxes.filled else None
