"""Lists of work that are made once and kept as long as the pattern that they are made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from attnbench.kernels.gpu.block_states import shared
from attnbench.kernels.gpu.block_tiles import most_runs
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.remember import kept_by, kept_with

Result = TypeVar("Result")

MOST_KEPT = 64 * 2**20
"""Bytes of lists above which they are made at each call. The lists of pairs of tiles take twice as many in addition."""


def list_bytes(plan: Plan) -> int:
    """Return the bytes of the segments for which the lists of a plan have space, including those of key tiles."""
    assert isinstance(plan.pattern, BlockPattern)
    rows, columns = plan.pattern.keep.shape[2:]
    once = shared(plan) and (plan.q_order is None or plan.q_order.dim() == 1)
    return 8 * rows * (most_runs(plan, columns) + columns) * (1 if once else plan.batch * plan.heads)


def are_kept(plan: Plan) -> bool:
    """Return whether the lists of a plan are kept: those of a pattern that all heads share, if they are small."""
    return kept_by(plan, "are kept", lambda: shared(plan) and list_bytes(plan) <= MOST_KEPT)


def kept_lists(plan: Plan, name: str, make: Callable[[], Result]) -> Result:
    """Make the lists called ``name``, or return those of the last call if its plan held the same tensors.

    They are kept as long as the pattern if ``are_kept`` holds.
    """
    pattern = plan.pattern
    assert isinstance(pattern, BlockPattern)
    if not are_kept(plan):
        return make()
    band = () if pattern.band is None else pattern.band.tensors
    tensors = (pattern.keep, pattern.q_offsets, pattern.k_offsets, plan.q_order, plan.k_order, *band)
    return kept_with(tensors, (name, pattern.rule, plan.layout.numbers, plan.batch, plan.heads), make)
