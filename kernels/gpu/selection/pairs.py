"""What the kernels of the cuts over whole heads share: a head's pairs, their weights, and the state of its cut."""

from __future__ import annotations

import triton.language as tl

from attnbench.kernels.gpu.widen import image_value, jit, order_image, weigh, weight_scale

# The state of a head's cut: int64 numbers, by place.
TOTAL = tl.constexpr(0)  # weight of all pairs
OWN = tl.constexpr(1)  # weight of the own pairs
TARGET = tl.constexpr(2)  # weight, or number of pairs, that the kept others must reach
FLOOR = tl.constexpr(3)  # the bracket holds the weights from here …
CEILING = tl.constexpr(4)  # … to below here
SHIFT = tl.constexpr(5)  # bins of the bracket are 2^this wide
INSIDE = tl.constexpr(6)  # pairs in the bracket
OVER = tl.constexpr(7)  # pairs above the bracket
CURSOR = tl.constexpr(8)  # pairs collected so far
SELECTED = tl.constexpr(9)  # weight of the pairs above the last bracket
ABOVE = tl.constexpr(10)  # weight of the pairs above the bracket: one place for each level, up to six
SLOTS = tl.constexpr(16)
LIMIT = tl.constexpr((1 << 30) + 1)  # above all weights


@jit
def scaling_of(extremes: tl.tensor, head: tl.tensor) -> tl.tensor:
    """Return the lowest score of a head and the scale of its weights; zeros if it has no scores."""
    highest, lowest = tl.load(extremes + 2 * head), ~tl.load(extremes + 2 * head + 1)
    some = lowest <= highest
    low = tl.where(some, image_value(lowest), 0.0)
    first, second = weight_scale(low, tl.where(some, image_value(highest), 0.0))
    return low, first, second


@jit
def read_pairs(
    scores: tl.tensor, own: tl.tensor, at: tl.tensor, pairs: tl.tensor, scaling: tl.tensor, BLOCKS: tl.constexpr
) -> tl.tensor:
    """Return score and weight of the pairs at ``at``, and whether each is an own pair, or a rival of other pairs."""
    exists = at < pairs
    x = tl.load(scores + at, mask=exists, other=-float("inf"))
    query = at // BLOCKS
    is_own = exists & (tl.load(own + query, mask=exists, other=-1).to(tl.int32) == at - query * BLOCKS)
    valid = x > -float("inf")
    weight = weigh(tl.where(valid, x, scaling[0]), scaling[0], scaling[1], scaling[2])
    return x, weight, is_own, valid & ~is_own


@jit
def read_members(
    source: tl.tensor, band: tl.tensor, at: tl.tensor, size: tl.tensor, scaling: tl.tensor,
    BLOCKS: tl.constexpr, COLLECTED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return the pairs of the bracket at ``at``: image of the score, weight, place in the head, and which they are.

    ``at`` counts what was collected, or all pairs of the head.
    """
    scores, own, values, places = source
    if COLLECTED:
        inside = at < size
        x = tl.load(values + at, mask=inside, other=0.0)
        place = tl.load(places + at, mask=inside, other=0)
        weight = weigh(tl.where(inside, x, scaling[0]), scaling[0], scaling[1], scaling[2])
    else:
        x, weight, _, rival = read_pairs(scores, own, at, size, scaling, BLOCKS)
        inside = rival & (weight >= band[0]) & (weight < band[1])
        place = at
    return order_image(x), weight, place, inside


@jit
def add_weights(weight: tl.tensor) -> tl.tensor:
    """Add up at most 2^15 weights exactly, int64: in halves of 15 and 16 bits, as 32-bit integers reduce fastest."""
    upper = tl.sum(weight >> 16, 0).to(tl.int64)
    return (upper << 16) + tl.sum(weight & 0xFFFF, 0).to(tl.int64)
