"""Cuts over all (query, block) pairs of a head, by a threshold on their shares or by a number of pairs.

Nothing is sorted. Weights are integers (see ``widen``). A bracket of weights that almost always holds the cut is
guessed from a sample, and one pass over the scores writes what lies outside it and collects what lies inside (see
``bracket``). The collected pairs are narrowed level by level. The pairs of the bracket are counted in 128 bins, and
those above it are added up exactly. The edges of the bins bound the sum above each bin, and the bins between "certainly
reached" and "possibly reached" become the next bracket. When at most ``capacity`` pairs remain in it, the head is
settled and later levels skip it. Then all pairs except those of the bracket are written, and one program per head ranks
these exactly, by score and then by (query, block). A head whose cut is not in the guessed bracket is narrowed over all
of its pairs. If ``levels`` do not suffice because many scores are equal, the last program works on the scores
themselves, which is slow but just as exact.

The last program that finishes a head in a launch narrows its bracket. Nothing waits for the device, and launches depend
on shapes alone. Sums are of integers, so results are reproducible bit for bit although atomics collect them.

Predicted for 12 heads of 55,296 queries × 72 blocks on an H100: the sample reads an eleventh of 191 MB. The pass reads
191 MB and writes 48 MB, 0.09 ms at 3 TB/s, and takes about 40 instructions per pair, 0.13 ms. A twentieth of the pairs
is collected. Narrowing all pairs took two passes of 0.2 ms, and a third one of 0.18 ms that wrote them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.gpu.launch import launch
from attnbench.kernels.gpu.selection.bracket import divide_pairs, sample_bracket
from attnbench.kernels.gpu.selection.pairs import (
    ABOVE,
    BASE,
    CEILING,
    CURSOR,
    FLOOR,
    INSIDE,
    LIMIT,
    LISTED,
    OVER,
    SELECTED,
    SHIFT,
    SLOTS,
    TARGET,
    TICKETS,
    add_weights,
    fresh,
    is_last,
    read_members,
    read_pairs,
    scaling_of,
    shift_for,
)
from attnbench.kernels.gpu.selection.ranking import rank_bracket
from attnbench.kernels.gpu.selection.scoring import new_extremes
from attnbench.kernels.gpu.widen import ceil_div, check_dtype, jit, order_image


@dataclass(frozen=True)
class Tuning:
    """Sizes that change the speed of the cuts and never their result.

    Attributes:
        tile: pairs that a program handles at once, a power of two from 4 on.
        programs: approximate number of programs of a pass.
        capacity: pairs of a head that may remain to be ranked, a power of two.
        levels: largest number of narrowing passes, 1 to 6. Settled heads skip the rest.
        log_bins: binary logarithm of the number of bins, at least 5.
        block: pairs that the ranking program handles at once, a power of two.
        stride: distance between queries of the sample; not a factor of usual grid widths.
        margin: share of all weight that the first bracket holds on either side of the sample's cut.
        room: a program of the first pass can collect 1 / room of its pairs.
    """

    tile: int = 1024
    programs: int = 1056
    capacity: int = 512
    levels: int = 3
    log_bins: int = 7
    block: int = 512
    stride: int = 11
    margin: float = 0.015
    room: int = 8


DEFAULT = Tuning()


def cut_threshold_head(
    scores: Tensor, own: Tensor, threshold: float, *, extremes: Tensor | None = None, tuning: Tuning = DEFAULT
) -> Tensor:
    """Keep every own pair, then the best pairs of the whole head until their shares reach ``threshold``.

    The result equals ``selection.threshold_per_head`` in float64. The pair that reaches the threshold is kept, and at
    least one other pair. Among equal scores at the cut, the first ones by (query, block) are kept.

    Args:
        scores: float32 [B, H, N, blocks], contiguous, finite.
        own: int64 [N], each query's own block.
        threshold: in (0, 1].
        extremes: int32 [B·H, 2], the result of ``score``; computed if None.
        tuning: sizes that change the speed only.

    Returns:
        bool [B, H, N, blocks].

    Raises:
        BadInput: for another threshold, or shapes that do not fit each other.
        Unsupported: for another dtype, for scores that are not contiguous, and for 2^31 pairs a head or more.
    """
    if not 0 < threshold <= 1:
        raise BadInput(f"threshold is {threshold!r}; it must be a number above 0 and at most 1")
    # Integers are passed to a kernel exactly, while Python floats become float32.
    return _cut(scores, own, round(threshold * 2**60), False, extremes, tuning)


def cut_top_k_head(
    scores: Tensor, own: Tensor, k: int, *, extremes: Tensor | None = None, tuning: Tuning = DEFAULT
) -> Tensor:
    """Keep every own pair and, over all queries of a head, the best other pairs: ``k`` per query on average.

    The result equals ``selection.top_k_per_head``. Scores of -inf are never kept. Among equal scores at the cut, the
    first ones by (query, block) are kept.

    Args:
        scores: float32 [B, H, N, blocks], contiguous.
        own: int64 [N], each query's own block.
        k: pairs per query, its own included.
        extremes: int32 [B·H, 2], the result of ``score``, if no score is -inf; computed if None.
        tuning: sizes that change the speed only.

    Returns:
        bool [B, H, N, blocks].

    Raises:
        BadInput: if the shapes do not fit each other.
        Unsupported: for another dtype, for scores that are not contiguous, and for 2^31 pairs a head or more.
    """
    n, blocks = scores.shape[-2:]
    return _cut(scores, own, min(max(0, k - 1), blocks - 1) * n, True, extremes, tuning)


def check_scores(scores: Tensor, own: Tensor) -> None:
    """Refuse scores that the cuts of whole heads do not support.

    Raises:
        BadInput: if the shapes do not fit each other.
        Unsupported: for another dtype, for scores that are not contiguous, and for 2^31 pairs a head or more.
    """
    check_shapes(scores, own)
    if not scores.is_contiguous():
        raise Unsupported(f"scores have strides {tuple(scores.stride())}; they must be contiguous")


def check_shapes(scores: Tensor, own: Tensor) -> None:
    """Refuse scores that no cut supports.

    Raises:
        BadInput: if the shapes do not fit each other.
        Unsupported: for another dtype, if ``own`` is not contiguous, and for 2^31 pairs a head or more.
    """
    check_dtype("scores", scores, torch.float32)
    check_dtype("own", own, torch.int64)
    if scores.dim() != 4 or own.shape != scores.shape[2:3]:
        raise BadInput(
            f"scores are {list(scores.shape)} and own is {list(own.shape)}; they must be [B, H, N, blocks], [N]"
        )
    if not own.is_contiguous():
        raise Unsupported(f"own has stride {own.stride(0)}; it must be contiguous")
    if scores.shape[2] * scores.shape[3] >= 2**31:
        raise Unsupported(f"scores are {list(scores.shape)}; a head must have fewer than 2^31 pairs")


def _cut(scores: Tensor, own: Tensor, amount: int, count: bool, extremes: Tensor | None, tuning: Tuning) -> Tensor:
    check_scores(scores, own)
    batch, heads, n, blocks = scores.shape
    rows, pairs, slots = batch * heads, n * blocks, SLOTS.value
    bins, levels, capacity = 2**tuning.log_bins, tuning.levels, tuning.capacity
    tiles = ceil_div(pairs, tuning.tile)
    steps = max(1, tiles * rows // tuning.programs)
    grid = (ceil_div(tiles, steps), rows)
    zeros = torch.zeros(rows * slots + (levels + 1) * rows * bins // 2, dtype=torch.int64, device=scores.device)
    state, counts = zeros[: rows * slots], zeros[rows * slots :].view(torch.int32)
    if extremes is None:
        extremes = new_extremes(rows, scores.device)
        launch(_extremes, grid, (scores, extremes), (pairs, steps), TILE=tuning.tile, num_warps=8)
    keep = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    kept = keep.view(torch.uint8)
    room = ceil_div(steps * tuning.tile, tuning.room)
    values, last_values = scores.new_empty(rows, grid[0], room), scores.new_empty(rows, capacity)
    places, last_places, taken = (
        torch.empty(shape, dtype=torch.int32, device=scores.device)
        for shape in ((rows, grid[0], room), (rows, capacity), (rows, grid[0]))
    )
    sampled = ceil_div(n, tuning.stride) * blocks
    parts = max(1, min(grid[0], ceil_div(sampled, tuning.tile)))
    given = (scores, own, extremes, state)
    common: dict[str, Any] = {"BLOCKS": blocks, "COUNT": count}
    launch(
        sample_bracket, (parts, rows), (*given, counts),
        (amount, pairs, sampled, ceil_div(sampled, parts * tuning.tile)), **common,
        LOG_BINS=tuning.log_bins, STRIDE=tuning.stride, MARGIN=tuning.margin, TILE=tuning.tile, num_warps=8,
    )  # fmt: skip
    launch(
        divide_pairs, grid, (*given, kept, values, places, taken), (amount, pairs, steps, room), **common,
        LOG_BINS=tuning.log_bins, TILE=tuning.tile, num_warps=8,
    )  # fmt: skip
    common["CAPACITY"] = capacity
    for level in range(levels):
        launch(
            _narrow, grid, (*given, counts, values, places, taken), (pairs, steps, room), **common, LEVEL=level,
            LOG_BINS=tuning.log_bins, TILE=tuning.tile, num_warps=8,
        )  # fmt: skip
    launch(
        _write, grid, (*given, kept, values, places, taken, last_values, last_places), (pairs, steps, room), **common,
        TILE=tuning.tile, num_warps=8,
    )  # fmt: skip
    launch(
        rank_bracket, (rows,), (*given, kept, last_values, last_places), (pairs,), **common, BLOCK=tuning.block,
        num_warps=8,
    )  # fmt: skip
    return keep


@jit
def _extremes(scores: tl.tensor, extremes: tl.tensor, pairs: tl.tensor, steps: tl.tensor, TILE: tl.constexpr) -> None:
    """Compute the extremes of all scores above -inf."""
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
def _narrow(
    scores: tl.tensor, own: tl.tensor, extremes: tl.tensor, state: tl.tensor, counts: tl.tensor, values: tl.tensor,
    places: tl.tensor, taken: tl.tensor, pairs: tl.tensor, steps: tl.tensor, room: tl.tensor, BLOCKS: tl.constexpr,
    COUNT: tl.constexpr, CAPACITY: tl.constexpr, LEVEL: tl.constexpr, LOG_BINS: tl.constexpr, TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Count the pairs of the bracket in bins, add up the weights above it, and take the bins that may hold the cut."""
    head = tl.program_id(1).to(tl.int64)
    state += head * SLOTS
    if tl.load(state + INSIDE) > CAPACITY:
        part = head * tl.num_programs(0) + tl.program_id(0)
        scaling = scaling_of(extremes, head)
        source = (scores + head * pairs, own, values + part * room, places + part * room)
        counts += ((LEVEL + 1) * tl.num_programs(1) + head) * (1 << LOG_BINS)
        if tl.load(state + LISTED) > 0:
            size = tl.load(taken + part)
            _count(source, state, counts, 0, size, size, scaling, BLOCKS, COUNT, LEVEL, LOG_BINS, TILE, True)
        else:
            first = tl.program_id(0) * steps * TILE
            end = first + steps * TILE
            _count(source, state, counts, first, end, pairs, scaling, BLOCKS, COUNT, LEVEL, LOG_BINS, TILE, False)
        if is_last(state + TICKETS + 2 + LEVEL):
            _take_bins(state, counts, COUNT, LEVEL, LOG_BINS)


@jit
def _count(
    source: tl.tensor, state: tl.tensor, counts: tl.tensor, start: tl.tensor, end: tl.tensor, size: tl.tensor,
    scaling: tl.tensor, BLOCKS: tl.constexpr, COUNT: tl.constexpr, LEVEL: tl.constexpr, LOG_BINS: tl.constexpr,
    TILE: tl.constexpr, COLLECTED: tl.constexpr,
) -> None:  # fmt: skip
    BINS: tl.constexpr = 1 << LOG_BINS
    floor, ceiling = tl.load(state + FLOOR).to(tl.int32), tl.load(state + CEILING).to(tl.int32)
    shift = tl.load(state + SHIFT).to(tl.int32)
    found = tl.zeros([BINS], tl.int32)
    above = tl.full([], 0, tl.int64)
    for first in range(start, end, TILE):
        at = first + tl.arange(0, TILE)
        _, weight, _, rival = read_members(source, (floor, LIMIT), at, size, scaling, BLOCKS, COLLECTED)
        inside = rival & (weight < ceiling)
        bins = tl.minimum(tl.where(inside, weight - floor, 0) >> shift, BINS - 1)
        found += tl.histogram(bins, BINS, mask=inside)
        if not COUNT:
            above += add_weights(tl.where(rival & (weight >= ceiling), weight, 0))
    tl.atomic_add(counts + tl.arange(0, BINS), found, mask=found > 0, sem="relaxed")
    if not COUNT:
        tl.atomic_add(state + ABOVE + LEVEL, above, mask=above > 0, sem="relaxed")


@jit
def _take_bins(
    state: tl.tensor, counts: tl.tensor, COUNT: tl.constexpr, LEVEL: tl.constexpr, LOG_BINS: tl.constexpr
) -> None:
    """Replace the bracket of a head by those of its bins that may hold the cut."""
    BINS: tl.constexpr = 1 << LOG_BINS
    one = tl.full([], 1, tl.int64)
    floor, ceiling, shift = tl.load(state + FLOOR), tl.load(state + CEILING), tl.load(state + SHIFT)
    target, over = tl.load(state + TARGET), tl.load(state + OVER)
    bins = tl.arange(0, BINS).to(tl.int64)
    found = fresh(counts + tl.arange(0, BINS)).to(tl.int64)
    first = floor + (bins << shift)
    last = tl.where(bins == BINS - 1, ceiling, tl.minimum(first + (one << shift), ceiling)) - 1
    number = over + tl.cumsum(found, 0, reverse=True)
    if COUNT:
        least = number
        most = number
    else:
        above = tl.load(state + BASE) + fresh(state + ABOVE + LEVEL)
        least = above + tl.cumsum(found * first, 0, reverse=True)
        most = above + tl.cumsum(found * last, 0, reverse=True)
    high = tl.max(tl.where((most >= target) & (number > 0), bins, 0), 0)  # the cut is certainly not above this bin
    low = tl.max(tl.where((least >= target) & (number > 0), bins, 0), 0)  # nor below this one
    ceiling = tl.max(tl.where(bins == high, last, 0), 0) + 1
    floor += low << shift
    tl.store(state + FLOOR, floor)
    tl.store(state + CEILING, ceiling)
    tl.store(state + SHIFT, shift_for(floor, ceiling, LOG_BINS))
    tl.store(state + INSIDE, tl.sum(tl.where((bins >= low) & (bins <= high), found, 0), 0))
    tl.store(state + OVER, over + tl.sum(tl.where(bins > high, found, 0), 0))


@jit
def _write(
    scores: tl.tensor, own: tl.tensor, extremes: tl.tensor, state: tl.tensor, keep: tl.tensor, values: tl.tensor,
    places: tl.tensor, taken: tl.tensor, last_values: tl.tensor, last_places: tl.tensor, pairs: tl.tensor,
    steps: tl.tensor, room: tl.tensor, BLOCKS: tl.constexpr, COUNT: tl.constexpr, CAPACITY: tl.constexpr,
    TILE: tl.constexpr,
) -> None:  # fmt: skip
    """Write the pairs above the last bracket as kept, unless they are already, and collect those inside if they fit."""
    head = tl.program_id(1).to(tl.int64)
    state += head * SLOTS
    scaling = scaling_of(extremes, head)
    part = head * tl.num_programs(0) + tl.program_id(0)
    source = (scores + head * pairs, own, values + part * room, places + part * room)
    target = (keep + head * pairs, last_values + head * CAPACITY, last_places + head * CAPACITY)
    if tl.load(state + LISTED) > 0:
        size = tl.load(taken + part)
        _write_members(source, target, state, 0, size, size, scaling, BLOCKS, COUNT, CAPACITY, TILE, True)
        if tl.program_id(0) == 0:
            tl.atomic_add(state + SELECTED, tl.load(state + BASE), sem="relaxed")
    else:
        first = tl.program_id(0) * steps * TILE
        end = first + steps * TILE
        _write_members(source, target, state, first, end, pairs, scaling, BLOCKS, COUNT, CAPACITY, TILE, False)


@jit
def _write_members(
    source: tl.tensor, target: tl.tensor, state: tl.tensor, start: tl.tensor, end: tl.tensor, size: tl.tensor,
    scaling: tl.tensor, BLOCKS: tl.constexpr, COUNT: tl.constexpr, CAPACITY: tl.constexpr, TILE: tl.constexpr,
    COLLECTED: tl.constexpr,
) -> None:  # fmt: skip
    keep, last_values, last_places = target
    floor, ceiling = tl.load(state + FLOOR).to(tl.int32), tl.load(state + CEILING).to(tl.int32)
    fits_all = tl.load(state + INSIDE) <= CAPACITY
    total = tl.full([], 0, tl.int64)
    one = tl.full([TILE], 1, tl.int64)
    for first in range(start, end, TILE):
        at = first + tl.arange(0, TILE)
        if COLLECTED:
            x, weight, place, rival = read_members(source, (floor, LIMIT), at, size, scaling, BLOCKS, True)
            above = rival & (weight >= ceiling)
            tl.store(keep + place, one.to(tl.uint8), mask=above)
        else:
            x, weight, is_own, rival = read_pairs(source[0], source[1], at, size, scaling, BLOCKS)
            place = at
            above = rival & (weight >= ceiling)
            tl.store(keep + at, (is_own | above).to(tl.uint8), mask=at < size)
        if not COUNT:
            total += add_weights(tl.where(above, weight, 0))
        inside = fits_all & rival & (weight >= floor) & (weight < ceiling)
        slot = tl.atomic_add(state + CURSOR + tl.zeros([TILE], tl.int32), one, mask=inside, sem="relaxed")
        fits = inside & (slot < CAPACITY)
        tl.store(last_values + slot, x, mask=fits)
        tl.store(last_places + slot, place, mask=fits)
    if not COUNT:
        tl.atomic_add(state + SELECTED, total, mask=total > 0, sem="relaxed")
