"""The partial results of a query, one after the other.

A query has a slot in each group of blocks, and in most groups no partial result. A program that walks all groups mostly
waits for rows that are not there. So each of its queries skips the groups that it is not in: at turn i, a program takes
the i-th partial result of each query.
"""

from __future__ import annotations

import triton.language as tl

from attnbench.kernels.gpu.widen import INTERPRETED, jit

MERGED_ROWS = 64 if INTERPRETED else 8
"""Queries of a program, which has one warp: with more warps, each turn has barriers. Triton's interpreter takes as long
for a program with many queries as for one with few.
"""

MOST_AT_ONCE = 32
"""Groups whose slots a program holds at once, at most."""


@jit
def present(
    slots: tl.tensor, row: tl.tensor, n: tl.tensor, first: tl.tensor, groups: tl.tensor, GROUPS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return slots and turns [GROUPS, rows] of the groups from ``first`` on, and the number of turns.

    Args:
        slots: those of one head, int32 [groups, n]; -1 where a query has no partial result.
        row: queries; those from n on have none.
        n, groups: queries and groups of the head.
        first: a multiple of GROUPS, which is a power of two.
    """
    group = first + tl.arange(0, GROUPS)
    mask = (group < groups)[:, None] & (row < n)[None]
    slot = tl.load(slots + group.to(tl.int64)[:, None] * n + row[None], mask=mask, other=-1)
    there = (slot >= 0).to(tl.int32)
    turn = tl.where(slot >= 0, tl.cumsum(there, 0) - 1, -1)
    return slot, turn, tl.max(tl.sum(there, 0), 0)


@jit
def slot_of_turn(slot: tl.tensor, turn: tl.tensor, i: tl.tensor) -> tl.tensor:
    """Return the slot that each row has at turn i, or -1."""
    return tl.max(tl.where(turn == i, slot, -1), 0)
