"""Functions that kernels for cuts over whole heads share: a head's pairs, their weights, the state of its cut."""

from __future__ import annotations

import triton.language as tl

from attnbench.kernels.gpu.widen import image_value, jit, weigh, weight_scale

# The state of a head's cut: int64 numbers, by index.
TOTAL = tl.constexpr(0)  # weight of all pairs
OWN = tl.constexpr(1)  # weight of the own pairs
TARGET = tl.constexpr(2)  # weight, or number of pairs, that the kept others must reach
FLOOR = tl.constexpr(3)  # the bracket holds the weights from here …
CEILING = tl.constexpr(4)  # … to below here
SHIFT = tl.constexpr(5)  # bins of the bracket are 2^this wide
INSIDE = tl.constexpr(6)  # pairs in the bracket; an upper bound while it holds all weights
OVER = tl.constexpr(7)  # pairs above the bracket
CURSOR = tl.constexpr(8)  # pairs collected so far
SELECTED = tl.constexpr(9)  # weight of the pairs above the last bracket
ABOVE = tl.constexpr(
    10
)  # weight of the pairs above the bracket, of those still read: one number for each level, up to six
BASE = tl.constexpr(16)  # weight of the pairs that are above what was collected
WITHIN = tl.constexpr(17)  # weight of what was collected
FULL = tl.constexpr(18)  # 1 if there was not enough space to collect all
LISTED = tl.constexpr(19)  # 1 if the cut is among what was collected
SAMPLED = tl.constexpr(20)  # weight of all pairs of the sample
SAMPLED_OWN = tl.constexpr(21)  # weight of its own pairs
TICKETS = tl.constexpr(22)  # numbers of finished programs: of the sample, of the division, and of each level
SLOTS = tl.constexpr(32)
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
    """Return score and weight of the pairs at ``at``, whether each is an own pair, and whether it is a rival."""
    exists = at < pairs
    x = tl.load(scores + at, mask=exists, other=-float("inf"))
    query = at // BLOCKS
    is_own = exists & (tl.load(own + query, mask=exists, other=-1).to(tl.int32) == at - query * BLOCKS)
    valid = x > -float("inf")
    weight = weigh(tl.where(valid, x, scaling[0]), scaling[0], scaling[1], scaling[2])
    return x, weight, is_own, valid & ~is_own


@jit
def read_quads(
    scores: tl.tensor, own: tl.tensor, first: tl.tensor, pairs: tl.tensor, scaling: tl.tensor, BLOCKS: tl.constexpr
) -> tl.tensor:
    """Return place, score, weight, whether own, and whether rival, of the four pairs from each of ``first`` on.

    Each result is [quads, 4]. With three blocks or more, four pairs belong to at most two queries.
    """
    at = first[:, None] + tl.arange(0, 4)[None, :]
    if BLOCKS < 3:
        x, weight, is_own, rival = read_pairs(scores, own, at, pairs, scaling, BLOCKS)
    else:
        exists = at < pairs
        x = tl.load(scores + at, mask=exists, other=-float("inf"))
        query = first // BLOCKS
        mine = query * BLOCKS + tl.load(own + query, mask=first < pairs, other=0).to(tl.int32)
        following = query * BLOCKS + BLOCKS
        following += tl.load(own + query + 1, mask=following < pairs, other=0).to(tl.int32)
        is_own = exists & ((at == mine[:, None]) | (at == following[:, None]))
        valid = x > -float("inf")
        weight = weigh(tl.where(valid, x, scaling[0]), scaling[0], scaling[1], scaling[2])
        rival = valid & ~is_own
    return at, x, weight, is_own, rival


@jit
def read_members(
    source: tl.tensor, band: tl.tensor, at: tl.tensor, size: tl.tensor, scaling: tl.tensor,
    BLOCKS: tl.constexpr, COLLECTED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return pairs at ``at``: score, weight, place in the head, and which of them are rivals of the bracket.

    ``at`` are indices into the collected pairs, or into all pairs of the head. ``size`` is their number.
    """
    scores, own, values, places = source
    if COLLECTED:
        rival = at < size
        x = tl.load(values + at, mask=rival, other=0.0)
        place = tl.load(places + at, mask=rival, other=0)
        weight = weigh(tl.where(rival, x, scaling[0]), scaling[0], scaling[1], scaling[2])
    else:
        x, weight, _, rival = read_pairs(scores, own, at, size, scaling, BLOCKS)
        place = at
    return x, weight, place, rival & (weight >= band[0]) & (weight < band[1])


@jit
def add_weights(weight: tl.tensor) -> tl.tensor:
    """Add up at most 2^15 weights exactly, int64, in halves of 15 and 16 bits: 32-bit integers reduce fastest."""
    upper = tl.sum(weight >> 16, 0).to(tl.int64)
    return (upper << 16) + tl.sum(weight & 0xFFFF, 0).to(tl.int64)


@jit
def fresh(place: tl.tensor) -> tl.tensor:
    """Read sums that other programs of this launch have added up in memory."""
    return tl.atomic_add(place, tl.zeros(place.shape, place.dtype.element_ty), sem="relaxed")


@jit
def is_last(ticket: tl.tensor) -> tl.tensor:
    """Record that this program of its head has added up everything, and return whether all others had done so."""
    tl.debug_barrier()
    return tl.atomic_add(ticket, tl.full([], 1, tl.int64), sem="acq_rel") == tl.num_programs(0) - 1


@jit
def share_of(amount: tl.tensor) -> tl.tensor:
    """Return the threshold, float64, of which ``amount`` is 2^60 times."""
    one = tl.full([], 1, tl.int64)
    return (one * amount).to(tl.float64) / (one << 60).to(tl.float64)


@jit
def shift_for(floor: tl.tensor, ceiling: tl.tensor, LOG_BINS: tl.constexpr) -> tl.tensor:
    """Return the smallest shift that puts the weights of a bracket into 2^LOG_BINS bins, int64."""
    shift = tl.full([], 0, tl.int64)
    while ((ceiling - floor - 1) >> shift) >= (1 << LOG_BINS):
        shift += 1
    return shift
