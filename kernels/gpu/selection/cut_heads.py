"""The cuts over all (query, block) pairs of a head: by a threshold on their shares, or by a number of pairs.

No sort. Weights are integers (see ``widen``); a bracket of weights that certainly holds the cut is narrowed level by
level: one pass over the scores counts the pairs of the bracket in 128 bins and adds up exactly what lies above it; the
bins' edges then bound the sum above each bin, and the bins between "certainly reached" and "possibly reached" are the
next bracket. When at most ``capacity`` pairs are left in it, a head is settled and later levels skip it. Then one pass
writes all pairs but those of the bracket, and collects these; one program a head ranks them exactly, by score and then
by (query, block), and writes them. Where ``levels`` do not suffice (many equal scores), that program works on the
scores themselves: slow, but as exact.

Nothing waits for the device, and launches depend on shapes alone. Sums are of integers, so results are reproducible bit
for bit, although atomics collect them.

Predicted for 12 heads of 55,296 queries × 72 blocks on an H100: 191 MB a pass, 0.064 ms at 3 TB/s, three passes (two
levels settle spread-out scores) and 48 MB of results, 0.21 ms if memory were the limit. But the compiled loops take
about 80 instructions a pair, half of them the warp histogram's votes and population counts, and 0.13 ms a pass: 0.4 ms
at 72 blocks, 0.24 ms as the mean of 8, 48 and 72. Halving the bins would save a tenth of that and risk a third level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.gpu.selection.pairs import (
    ABOVE,
    CEILING,
    CURSOR,
    FLOOR,
    INSIDE,
    LIMIT,
    OVER,
    OWN,
    SELECTED,
    SHIFT,
    SLOTS,
    TARGET,
    TOTAL,
    add_weights,
    read_pairs,
    scaling_of,
)
from attnbench.kernels.gpu.selection.ranking import rank_bracket
from attnbench.kernels.gpu.selection.scoring import new_extremes
from attnbench.kernels.gpu.widen import check_dtype, jit, order_image


@dataclass(frozen=True)
class Tuning:
    """Sizes that change the speed of the cuts and never their result.

    Attributes:
        tile: pairs a program handles at once, a power of two.
        programs: programs a pass is divided into, about.
        capacity: pairs of a head that may be left to rank, a power of two.
        levels: most narrowing passes, 1 to 6; settled heads skip the rest.
        log_bins: binary logarithm of the number of bins, at least 5.
        block: pairs the ranking program handles at once, a power of two.
    """

    tile: int = 2048
    programs: int = 1056
    capacity: int = 16384
    levels: int = 4
    log_bins: int = 7
    block: int = 512


DEFAULT = Tuning()


def cut_threshold_head(
    scores: Tensor, own: Tensor, threshold: float, *, extremes: Tensor | None = None, tuning: Tuning = DEFAULT
) -> Tensor:
    """Keep every own pair, then the best pairs of the whole head until their shares reach ``threshold``.

    Equal to ``selection.threshold_per_head`` in float64: the pair that reaches the threshold is kept, one other pair at
    least; among equal scores at the cut the first by (query, block).

    Args:
        scores: float32 [B, H, N, blocks], contiguous, finite.
        own: int64 [N], each query's own block.
        threshold: in (0, 1].
        extremes: int32 [B·H, 2] as ``score`` returns them; computed if None.
        tuning: sizes.

    Returns:
        bool [B, H, N, blocks].

    Raises:
        BadInput: for another threshold, or shapes that do not fit each other.
        Unsupported: for another dtype, for scores that are not contiguous, and for 2^31 pairs a head or more.
    """
    if not 0 < threshold <= 1:
        raise BadInput(f"threshold is {threshold!r}; it must be a number above 0 and at most 1")
    # Integers reach a kernel whole, while Python floats become float32.
    return _cut(scores, own, round(threshold * 2**60), False, extremes, tuning)


def cut_top_k_head(
    scores: Tensor, own: Tensor, k: int, *, extremes: Tensor | None = None, tuning: Tuning = DEFAULT
) -> Tensor:
    """Keep every own pair and, over all queries of a head, the best other pairs: ``k`` a query on average.

    Equal to ``selection.top_k_per_head``: scores of -inf are never kept; among equal scores at the cut the first by
    (query, block) are kept.

    Args:
        scores: float32 [B, H, N, blocks], contiguous.
        own: int64 [N], each query's own block.
        k: pairs a query, its own included.
        extremes: int32 [B·H, 2] as ``score`` returns them, if no score is -inf; computed if None.
        tuning: sizes.

    Returns:
        bool [B, H, N, blocks].

    Raises:
        BadInput: if the shapes do not fit each other.
        Unsupported: for another dtype, for scores that are not contiguous, and for 2^31 pairs a head or more.
    """
    n, blocks = scores.shape[-2:]
    return _cut(scores, own, min(max(0, k - 1), blocks - 1) * n, True, extremes, tuning)


def check_scores(scores: Tensor, own: Tensor) -> None:
    """Refuse what the cuts do not take.

    Raises:
        BadInput: if the shapes do not fit each other.
        Unsupported: for another dtype, for scores that are not contiguous, and for 2^31 pairs a head or more.
    """
    check_dtype("scores", scores, torch.float32)
    check_dtype("own", own, torch.int64)
    if scores.dim() != 4 or own.shape != scores.shape[2:3]:
        raise BadInput(
            f"scores are {list(scores.shape)} and own is {list(own.shape)}; they must be [B, H, N, blocks], [N]"
        )
    if not scores.is_contiguous() or not own.is_contiguous():
        raise Unsupported(f"scores have strides {tuple(scores.stride())}; they must be contiguous, and own too")
    if scores.shape[2] * scores.shape[3] >= 2**31:
        raise Unsupported(f"scores are {list(scores.shape)}; a head must have fewer than 2^31 pairs")


def _cut(scores: Tensor, own: Tensor, amount: int, count: bool, extremes: Tensor | None, tuning: Tuning) -> Tensor:
    check_scores(scores, own)
    batch, heads, n, blocks = scores.shape
    rows, pairs, slots = batch * heads, n * blocks, SLOTS.value
    bins, levels, capacity = 2**tuning.log_bins, tuning.levels, tuning.capacity
    tiles = triton.cdiv(pairs, tuning.tile)
    steps = max(1, tiles * rows // tuning.programs)
    grid = (triton.cdiv(tiles, steps), rows)
    zeros = torch.zeros(rows * slots + levels * rows * bins // 2, dtype=torch.int64, device=scores.device)
    state, counts = zeros[: rows * slots], zeros[rows * slots :].view(torch.int32)
    if extremes is None:
        extremes = new_extremes(rows, scores.device)
        _extremes[grid](scores, extremes, pairs, steps, TILE=tuning.tile, num_warps=8)
    keep = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    values = scores.new_empty(rows, capacity)
    places = torch.empty(rows, capacity, dtype=torch.int32, device=scores.device)
    settings = {"COUNT": count, "CAPACITY": capacity}
    for level in range(levels):
        narrowing = settings | {"LEVEL": level, "LOG_BINS": tuning.log_bins}
        _tally[grid](
            scores,
            own,
            extremes,
            state,
            counts,
            pairs,
            steps,
            BLOCKS=blocks,
            TILE=tuning.tile,
            **narrowing,
            num_warps=8,
        )
        _narrow[(rows,)](state, counts, amount, **narrowing, num_warps=1)
    kept = keep.view(torch.uint8)
    _write[grid](
        scores, own, extremes, state, kept, values, places, pairs, steps,
        BLOCKS=blocks, TILE=tuning.tile, **settings, num_warps=8,
    )  # fmt: skip
    rank_bracket[(rows,)](
        scores, own, extremes, state, kept, values, places, pairs,
        BLOCKS=blocks, BLOCK=tuning.block, **settings, num_warps=8,
    )  # fmt: skip
    return keep


@jit
def _extremes(scores: tl.tensor, extremes: tl.tensor, pairs: tl.tensor, steps: tl.tensor, TILE: tl.constexpr) -> None:
    """Take the extremes of all scores above -inf."""
    head = tl.program_id(1).to(tl.int64)
    highest = tl.full([TILE], -0x80000000, tl.int32)
    lowest = tl.full([TILE], -0x80000000, tl.int32)
    for step in range(steps):
        at = (tl.program_id(0) * steps + step) * TILE + tl.arange(0, TILE)
        x = tl.load(scores + head * pairs + at, mask=at < pairs, other=-float("inf"))
        valid = x > -float("inf")
        highest = tl.where(valid, tl.maximum(highest, order_image(x)), highest)
        lowest = tl.where(valid, tl.maximum(lowest, ~order_image(x)), lowest)
    tl.atomic_max(extremes + 2 * head, tl.max(highest, 0), sem="relaxed")
    tl.atomic_max(extremes + 2 * head + 1, tl.max(lowest, 0), sem="relaxed")


@jit
def _tally(
    scores: tl.tensor, own: tl.tensor, extremes: tl.tensor, state: tl.tensor, counts: tl.tensor, pairs: tl.tensor,
    steps: tl.tensor, BLOCKS: tl.constexpr, COUNT: tl.constexpr, CAPACITY: tl.constexpr, LEVEL: tl.constexpr,
    LOG_BINS: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Count the pairs in each bin of the bracket, and add up the weights above it (at level 0, of all and of own)."""
    head = tl.program_id(1).to(tl.int64)
    scaling = scaling_of(extremes, head)
    state += head * SLOTS
    BINS: tl.constexpr = 1 << LOG_BINS
    if LEVEL == 0:
        floor = tl.full([], 0, tl.int32)
        ceiling = tl.full([], LIMIT, tl.int32)
        shift = tl.full([], 30 - LOG_BINS, tl.int32)
    else:
        floor = tl.load(state + FLOOR).to(tl.int32)
        ceiling = tl.load(state + CEILING).to(tl.int32)
        shift = tl.load(state + SHIFT).to(tl.int32)
        steps = tl.where(tl.load(state + INSIDE) > CAPACITY, steps, 0)
    found = tl.zeros([BINS], tl.int32)
    total = tl.full([], 0, tl.int64)
    mine = tl.full([], 0, tl.int64)
    for step in range(steps):
        at = (tl.program_id(0) * steps + step) * TILE + tl.arange(0, TILE)
        _, weight, is_own, rival = read_pairs(scores + head * pairs, own, at, pairs, scaling, BLOCKS)
        inside = rival & (weight >= floor) & (weight < ceiling)
        bins = tl.minimum(tl.where(inside, weight - floor, 0) >> shift, BINS - 1)
        found += tl.histogram(bins, BINS, mask=inside)
        if not COUNT:
            if LEVEL == 0:
                total += add_weights(tl.where(rival | is_own, weight, 0))
                mine += add_weights(tl.where(is_own, weight, 0))
            else:
                total += add_weights(tl.where(rival & (weight >= ceiling), weight, 0))
    place = (LEVEL * tl.num_programs(1) + head) * BINS + tl.arange(0, BINS)
    tl.atomic_add(counts + place, found, mask=found > 0, sem="relaxed")
    if not COUNT:
        if LEVEL == 0:
            tl.atomic_add(state + TOTAL, total, mask=total > 0, sem="relaxed")
            tl.atomic_add(state + OWN, mine, mask=mine > 0, sem="relaxed")
        else:
            tl.atomic_add(state + ABOVE + LEVEL, total, mask=total > 0, sem="relaxed")


@jit
def _target(total: tl.tensor, mine: tl.tensor, amount: tl.tensor) -> tl.tensor:
    """Return max(threshold · total - mine, 0) rounded up, where ``amount`` is the threshold · 2^60."""
    one = tl.full([], 1 << 60, tl.int64)
    missing = total.to(tl.float64) * (amount.to(tl.float64) / one.to(tl.float64)) - mine.to(tl.float64)
    whole = tl.maximum(missing, 0.0).to(tl.int64)
    whole += (whole.to(tl.float64) < missing).to(tl.int64)
    return tl.where(amount >= one, tl.maximum(total - mine, 0), whole)


@jit
def _narrow(
    state: tl.tensor, counts: tl.tensor, amount: tl.tensor, COUNT: tl.constexpr, CAPACITY: tl.constexpr,
    LEVEL: tl.constexpr, LOG_BINS: tl.constexpr,
) -> None:  # fmt: skip
    """Replace the bracket of a head by those of its bins that may hold the cut."""
    head = tl.program_id(0)
    state += head * SLOTS
    BINS: tl.constexpr = 1 << LOG_BINS
    one = tl.full([], 1, tl.int64)
    if LEVEL == 0:
        pending = head >= 0
        floor = one * 0
        ceiling = one * LIMIT
        shift = one * (30 - LOG_BINS)
        target = one * amount if COUNT else _target(tl.load(state + TOTAL), tl.load(state + OWN), one * amount)
        tl.store(state + TARGET, target)
    else:
        pending = tl.load(state + INSIDE) > CAPACITY
        floor, ceiling, shift = tl.load(state + FLOOR), tl.load(state + CEILING), tl.load(state + SHIFT)
        target = tl.load(state + TARGET)
    if pending:
        bins = tl.arange(0, BINS).to(tl.int64)
        found = tl.load(counts + (LEVEL * tl.num_programs(0) + head) * BINS + bins).to(tl.int64)
        first = floor + (bins << shift)
        last = tl.where(bins == BINS - 1, ceiling, tl.minimum(first + (one << shift), ceiling)) - 1
        over = tl.load(state + OVER)
        number = over + tl.cumsum(found, 0, reverse=True)
        if COUNT:
            least = number
            most = number
        else:
            above = tl.load(state + ABOVE + LEVEL)  # zero at level 0: nothing is above the first bracket
            least = above + tl.cumsum(found * first, 0, reverse=True)
            most = above + tl.cumsum(found * last, 0, reverse=True)
        high = tl.max(tl.where((most >= target) & (number > 0), bins, 0), 0)  # the cut is certainly not above this bin
        low = tl.max(tl.where((least >= target) & (number > 0), bins, 0), 0)  # nor below this one
        inside = tl.sum(tl.where((bins >= low) & (bins <= high), found, 0), 0)
        over += tl.sum(tl.where(bins > high, found, 0), 0)
        ceiling = tl.max(tl.where(bins == high, last, 0), 0) + 1
        floor += low << shift
        if COUNT:
            none = target == 0  # keep no other pair: a bracket above all weights
            floor = tl.where(none, one * LIMIT, floor)
            ceiling = tl.where(none, one * LIMIT, ceiling)
            inside = tl.where(none, 0, inside)
        shift = one * 0
        while ((ceiling - floor - 1) >> shift) >= BINS:
            shift += 1
        tl.store(state + FLOOR, floor)
        tl.store(state + CEILING, ceiling)
        tl.store(state + SHIFT, shift)
        tl.store(state + INSIDE, inside)
        tl.store(state + OVER, over)


@jit
def _write(
    scores: tl.tensor, own: tl.tensor, extremes: tl.tensor, state: tl.tensor, keep: tl.tensor, values: tl.tensor,
    places: tl.tensor, pairs: tl.tensor, steps: tl.tensor,
    BLOCKS: tl.constexpr, COUNT: tl.constexpr, CAPACITY: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Write own pairs and those above the bracket as kept, all others as not; collect those inside if there is room."""
    head = tl.program_id(1).to(tl.int64)
    scaling = scaling_of(extremes, head)
    state += head * SLOTS
    floor, ceiling = tl.load(state + FLOOR).to(tl.int32), tl.load(state + CEILING).to(tl.int32)
    room = tl.load(state + INSIDE) <= CAPACITY
    total = tl.full([], 0, tl.int64)
    for step in range(steps):
        at = (tl.program_id(0) * steps + step) * TILE + tl.arange(0, TILE)
        x, weight, is_own, rival = read_pairs(scores + head * pairs, own, at, pairs, scaling, BLOCKS)
        above = rival & (weight >= ceiling)
        tl.store(keep + head * pairs + at, (is_own | above).to(tl.uint8), mask=at < pairs)
        if not COUNT:
            total += add_weights(tl.where(above, weight, 0))
        inside = room & rival & (weight >= floor) & (weight < ceiling)
        one = tl.full([TILE], 1, tl.int64)
        slot = tl.atomic_add(state + CURSOR + tl.zeros([TILE], tl.int32), one, mask=inside, sem="relaxed")
        fits = inside & (slot < CAPACITY)
        tl.store(values + head * CAPACITY + slot, x, mask=fits)
        tl.store(places + head * CAPACITY + slot, at, mask=fits)
    if not COUNT:
        tl.atomic_add(state + SELECTED, total, mask=total > 0, sem="relaxed")
