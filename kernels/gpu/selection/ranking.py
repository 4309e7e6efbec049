"""The last step of a cut over a head: rank the pairs of the bracket exactly, and keep the best of them.

There is one program per head. A 16-ary search over the images of the scores finds the cut. It takes one pass over the
bracket for each hexadecimal digit in which the images of its scores differ, which is 2 to 4 for the usual few thousand
neighbouring scores. If equal scores must be separated, a second search over places does so.
"""

from __future__ import annotations

import triton.language as tl

from attnbench.kernels.gpu.selection.pairs import (
    CEILING,
    CURSOR,
    FLOOR,
    INSIDE,
    OVER,
    SELECTED,
    SLOTS,
    TARGET,
    read_members,
    scaling_of,
)
from attnbench.kernels.gpu.widen import jit, order_image


@jit
def rank_bracket(
    scores: tl.tensor, own: tl.tensor, extremes: tl.tensor, state: tl.tensor, keep: tl.tensor, values: tl.tensor,
    places: tl.tensor, pairs: tl.tensor, BLOCKS: tl.constexpr, COUNT: tl.constexpr, CAPACITY: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Keep the best pairs of the bracket, from those collected or, if there was no space, from the scores."""
    head = tl.program_id(0).to(tl.int64)
    scaling = scaling_of(extremes, head)
    state += head * SLOTS
    keep += head * pairs
    source = (scores + head * pairs, own, values + head * CAPACITY, places + head * CAPACITY)
    inside = tl.load(state + INSIDE)
    if inside <= CAPACITY:
        _rank(source, state, keep, tl.load(state + CURSOR).to(tl.int32), scaling, BLOCKS, COUNT, BLOCK, True)
    else:
        _rank(source, state, keep, pairs, scaling, BLOCKS, COUNT, BLOCK, False)


@jit
def _rank(
    source: tl.tensor, state: tl.tensor, keep: tl.tensor, size: tl.tensor, scaling: tl.tensor,
    BLOCKS: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr, COLLECTED: tl.constexpr,
) -> None:  # fmt: skip
    band = (tl.load(state + FLOOR), tl.load(state + CEILING))
    target, over = tl.load(state + TARGET), tl.load(state + OVER)
    above = over if COUNT else tl.load(state + SELECTED)
    lanes = tl.arange(0, BLOCK)
    digits = tl.arange(0, 16).to(tl.int64)

    least = tl.full([BLOCK], 0x7FFFFFFF, tl.int32)
    most = tl.full([BLOCK], -0x80000000, tl.int32)
    for first in range(0, size, BLOCK):
        x, _, _, inside = read_members(source, band, first + lanes, size, scaling, BLOCKS, COLLECTED)
        image = order_image(x)
        least = tl.where(inside, tl.minimum(least, image), least)
        most = tl.where(inside, tl.maximum(most, image), most)
    cut = tl.min(least, 0).to(tl.int64)
    span = tl.max(most, 0).to(tl.int64) - cut
    step = tl.full([], 1, tl.int64)
    while step * 16 <= span:
        step *= 16

    # The cut is the highest score such that the pairs at or above it reach the target, and are at least one.
    while step > 0:
        pivots = cut + digits * step
        numbers = tl.zeros([16, BLOCK], tl.int32)
        weights = tl.zeros([16, BLOCK], tl.int64)
        for first in range(0, size, BLOCK):
            x, weight, _, inside = read_members(source, band, first + lanes, size, scaling, BLOCKS, COLLECTED)
            image = order_image(x)
            beats = inside[None, :] & (image.to(tl.int64)[None, :] >= pivots[:, None])
            numbers += beats.to(tl.int32)
            if not COUNT:
                weights += tl.where(beats, weight[None, :], 0)
        number = tl.sum(numbers, 1).to(tl.int64)
        reached = above + (number if COUNT else tl.sum(weights, 1))
        cut += step * tl.max(tl.where((reached >= target) & (over + number > 0), digits, 0), 0)
        step = step // 16

    better = tl.zeros([BLOCK], tl.int32)
    equal = tl.zeros([BLOCK], tl.int32)
    beyond = tl.zeros([BLOCK], tl.int64)
    each = tl.zeros([BLOCK], tl.int32)
    for first in range(0, size, BLOCK):
        x, weight, _, inside = read_members(source, band, first + lanes, size, scaling, BLOCKS, COLLECTED)
        image = order_image(x)
        better += (inside & (image > cut)).to(tl.int32)
        equal += (inside & (image == cut)).to(tl.int32)
        beyond += tl.where(inside & (image > cut), 1 if COUNT else weight, 0)
        each = tl.where(inside & (image == cut), 1 if COUNT else weight, each)
    missing = target - above - tl.sum(beyond, 0)
    ties = tl.sum(equal, 0)
    weight = tl.max(each, 0)
    needed = tl.where(weight > 0, (missing + weight - 1) // tl.maximum(weight, 1), tl.where(missing > 0, ties, 0))
    needed = tl.maximum(needed, tl.where(over + tl.sum(better, 0) > 0, 0, 1))

    # Of the equal scores at the cut, the first ``needed`` are kept: those before place ``end``.
    end = tl.full([], 1 << 40, tl.int64)
    if needed < ties:
        end = tl.full([], 0, tl.int64)
        step = tl.full([], 1 << 28, tl.int64)
        while step > 0:
            pivots = end + digits * step
            numbers = tl.zeros([16, BLOCK], tl.int32)
            for first in range(0, size, BLOCK):
                x, _, place, inside = read_members(source, band, first + lanes, size, scaling, BLOCKS, COLLECTED)
                image = order_image(x)
                tied = inside & (image == cut)
                numbers += (tied[None, :] & (place.to(tl.int64)[None, :] < pivots[:, None])).to(tl.int32)
            end += step * tl.max(tl.where(tl.sum(numbers, 1) <= needed, digits, 0), 0)
            step = step // 16

    for first in range(0, size, BLOCK):
        x, _, place, inside = read_members(source, band, first + lanes, size, scaling, BLOCKS, COLLECTED)
        image = order_image(x)
        kept = inside & ((image > cut) | ((image == cut) & (place < end)))
        tl.store(keep + place, tl.full([BLOCK], 1, tl.uint8), mask=kept)
