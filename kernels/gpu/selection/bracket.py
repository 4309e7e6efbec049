"""The first steps of a cut over a head: a bracket guessed from a sample, and a pass that divides all pairs by it.

The sample consists of every STRIDE-th query. The bins of its weights bound the cut of the sample, and a margin on
either side makes a bracket that almost always holds the cut of the head. The pass writes what lies above and below the
bracket and collects what lies inside, each program in space of its own. It also adds everything up exactly, from which
its last program decides whether the bracket holds the cut. If it does not, or if the space of a program was too small,
the head is not "listed": later steps work on all of its pairs, starting from all weights. So a bad guess only costs
time.
"""

from __future__ import annotations

import triton.language as tl

from attnbench.kernels.gpu.selection.pairs import (
    BASE,
    CEILING,
    FLOOR,
    FULL,
    INSIDE,
    LIMIT,
    LISTED,
    OVER,
    OWN,
    SAMPLED,
    SAMPLED_OWN,
    SHIFT,
    SLOTS,
    TARGET,
    TICKETS,
    TOTAL,
    WITHIN,
    add_weights,
    fresh,
    is_last,
    read_pairs,
    read_quads,
    scaling_of,
    share_of,
    shift_for,
)
from attnbench.kernels.gpu.widen import jit


@jit
def sample_bracket(
    scores: tl.tensor, own: tl.tensor, extremes: tl.tensor, state: tl.tensor, counts: tl.tensor, amount: tl.tensor,
    pairs: tl.tensor, sampled: tl.tensor, steps: tl.tensor, BLOCKS: tl.constexpr, COUNT: tl.constexpr,
    LOG_BINS: tl.constexpr, STRIDE: tl.constexpr, MARGIN: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Count the weights of every STRIDE-th query in bins, and take the bins that may hold the cut as the bracket."""
    head = tl.program_id(1).to(tl.int64)
    scaling = scaling_of(extremes, head)
    state += head * SLOTS
    BINS: tl.constexpr = 1 << LOG_BINS
    found = tl.zeros([BINS], tl.int32)
    total = tl.full([], 0, tl.int64)
    mine = tl.full([], 0, tl.int64)
    for step in range(steps):
        place = (tl.program_id(0) * steps + step) * TILE + tl.arange(0, TILE)
        query = place // BLOCKS
        at = tl.where(place < sampled, query * (STRIDE * BLOCKS) + (place - query * BLOCKS), pairs)
        _, weight, is_own, rival = read_pairs(scores + head * pairs, own, at, pairs, scaling, BLOCKS)
        found += tl.histogram(tl.minimum(weight >> (30 - LOG_BINS), BINS - 1), BINS, mask=rival)
        if not COUNT:
            total += add_weights(tl.where(rival | is_own, weight, 0))
            mine += add_weights(tl.where(is_own, weight, 0))
    bins = tl.arange(0, BINS)
    counts += head * BINS + bins
    tl.atomic_add(counts, found, mask=found > 0, sem="relaxed")
    if not COUNT:
        tl.atomic_add(state + SAMPLED, total, sem="relaxed")
        tl.atomic_add(state + SAMPLED_OWN, mine, sem="relaxed")
    if is_last(state + TICKETS):
        found = fresh(counts)
        number = tl.cumsum(found, 0, reverse=True)
        if COUNT:
            whole = tl.sum(found, 0).to(tl.float64)
            one = tl.full([], 1, tl.int64)  # a number that is 1 is no tensor when compiled: it is multiplied to be one
            target = (one * amount).to(tl.float64) * (one * sampled).to(tl.float64) / (one * pairs).to(tl.float64)
            least = number.to(tl.float64)
            most = least
        else:
            whole = fresh(state + SAMPLED).to(tl.float64)
            target = whole * share_of(amount) - fresh(state + SAMPLED_OWN).to(tl.float64)
            first = (bins << (30 - LOG_BINS)).to(tl.int64)
            least = tl.cumsum(found * first, 0, reverse=True).to(tl.float64)
            most = tl.cumsum(found * (first + ((1 << (30 - LOG_BINS)) - 1)), 0, reverse=True).to(tl.float64)
        high = tl.max(tl.where((most >= target - MARGIN * whole) & (number > 0), bins, 0), 0)
        low = tl.max(tl.where(least >= target + MARGIN * whole, bins, 0), 0)
        ceiling = tl.where((high == BINS - 1) | (target <= MARGIN * whole), LIMIT, (high + 1) << (30 - LOG_BINS))
        tl.store(state + FLOOR, (low << (30 - LOG_BINS)).to(tl.int64))
        tl.store(state + CEILING, ceiling.to(tl.int64))


@jit
def divide_pairs(
    scores: tl.tensor, own: tl.tensor, extremes: tl.tensor, state: tl.tensor, keep: tl.tensor, values: tl.tensor,
    places: tl.tensor, taken: tl.tensor, amount: tl.tensor, pairs: tl.tensor, steps: tl.tensor, room: tl.tensor,
    BLOCKS: tl.constexpr, COUNT: tl.constexpr, LOG_BINS: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Write own pairs and those above the bracket as kept and all others as not kept, and collect those inside."""
    head = tl.program_id(1).to(tl.int64)
    scaling = scaling_of(extremes, head)
    state += head * SLOTS
    scores += head * pairs
    keep += head * pairs
    part = head * tl.num_programs(0) + tl.program_id(0)
    floor, ceiling = tl.load(state + FLOOR).to(tl.int32), tl.load(state + CEILING).to(tl.int32)
    collected = tl.full([], 0, tl.int32)
    over = tl.zeros([TILE // 4], tl.int32)
    total = tl.zeros([TILE // 4], tl.int64)
    mine = tl.zeros([TILE // 4], tl.int64)
    above = tl.zeros([TILE // 4], tl.int64)
    within = tl.zeros([TILE // 4], tl.int64)
    for step in range(steps):
        first = (tl.program_id(0) * steps + step) * TILE + tl.arange(0, TILE // 4) * 4
        at, x, weight, is_own, rival = read_quads(scores, own, first, pairs, scaling, BLOCKS)
        beyond = rival & (weight >= ceiling)
        inside = rival & (weight >= floor) & (weight < ceiling)
        tl.store(keep + at, (is_own | beyond).to(tl.uint8), mask=at < pairs)
        over += tl.sum(beyond.to(tl.int32), 1)
        if not COUNT:
            total += _add_quads(rival | is_own, weight)
            mine += _add_quads(is_own, weight)
            above += _add_quads(beyond, weight)
            within += _add_quads(inside, weight)
        of_quad = tl.cumsum(inside.to(tl.int32), 1)
        counted = tl.sum(inside.to(tl.int32), 1)
        before = tl.cumsum(counted, 0)
        place = collected + (before - counted)[:, None] + of_quad - 1
        fits = inside & (place < room)
        tl.store(values + part * room + place, x, mask=fits)
        tl.store(places + part * room + place, at, mask=fits)
        collected += tl.max(before, 0)
    tl.store(taken + part, collected)
    tl.atomic_add(state + OVER, tl.sum(over, 0).to(tl.int64), sem="relaxed")
    tl.atomic_add(state + INSIDE, collected.to(tl.int64), sem="relaxed")
    tl.atomic_max(state + FULL, (collected > room).to(tl.int64), sem="relaxed")
    if not COUNT:
        tl.atomic_add(state + TOTAL, tl.sum(total, 0), sem="relaxed")
        tl.atomic_add(state + OWN, tl.sum(mine, 0), sem="relaxed")
        tl.atomic_add(state + BASE, tl.sum(above, 0), sem="relaxed")
        tl.atomic_add(state + WITHIN, tl.sum(within, 0), sem="relaxed")
    if is_last(state + TICKETS + 1):
        _decide(state, floor.to(tl.int64), ceiling.to(tl.int64), amount, pairs, COUNT, LOG_BINS)


@jit
def _add_quads(chosen: tl.tensor, weight: tl.tensor) -> tl.tensor:
    return tl.sum(tl.where(chosen, weight, 0).to(tl.int64), 1)


@jit
def _decide(
    state: tl.tensor, floor: tl.tensor, ceiling: tl.tensor, amount: tl.tensor, pairs: tl.tensor, COUNT: tl.constexpr,
    LOG_BINS: tl.constexpr,
) -> None:  # fmt: skip
    """Write what the cut of the head must reach, and begin with the collected pairs, or with all pairs and weights."""
    over, inside = fresh(state + OVER), fresh(state + INSIDE)
    one = tl.full([], 1, tl.int64)
    if COUNT:
        target = one * amount
        above = over
        within = inside
    else:
        target = _target(fresh(state + TOTAL), fresh(state + OWN), one * amount)
        above = fresh(state + BASE)
        within = fresh(state + WITHIN)
    reached_above = (above >= target) & (over > 0)
    reached = (above + within >= target) & (over + inside > 0)
    none = COUNT & (target == 0)  # keep no other pair: a bracket above all weights
    listed = reached & ~reached_above & (fresh(state + FULL) == 0) & ~none
    floor = tl.where(none, LIMIT, tl.where(listed, floor, 0))
    ceiling = tl.where(none | ~listed, LIMIT, ceiling)
    tl.store(state + TARGET, target)
    tl.store(state + LISTED, listed.to(tl.int64))
    tl.store(state + FLOOR, floor)
    tl.store(state + CEILING, ceiling)
    tl.store(state + SHIFT, tl.where(listed, shift_for(floor, ceiling, LOG_BINS), one * (30 - LOG_BINS)))
    tl.store(state + INSIDE, tl.where(none, 0, tl.where(listed, inside, one * pairs)))
    tl.store(state + OVER, tl.where(listed, over, 0))
    tl.store(state + BASE, tl.where(listed, above, 0))


@jit
def _target(total: tl.tensor, mine: tl.tensor, amount: tl.tensor) -> tl.tensor:
    """Return max(threshold · total - mine, 0) rounded up, where ``amount`` is the threshold · 2^60."""
    missing = total.to(tl.float64) * share_of(amount) - mine.to(tl.float64)
    whole = tl.maximum(missing, 0.0).to(tl.int64)
    whole += (whole.to(tl.float64) < missing).to(tl.int64)
    return tl.where(amount >= (tl.full([], 1, tl.int64) << 60), tl.maximum(total - mine, 0), whole)
