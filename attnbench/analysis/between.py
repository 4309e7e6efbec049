"""How much of a map stays from one step to the next: block masses, and the pairs that a method keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from attnbench.analysis.attention import told
from attnbench.analysis.call import AttentionCall, Finding, Measurer, Seen
from attnbench.analysis.estimates import of_statistic
from attnbench.analysis.plans import Planned, Planner
from attnbench.analysis.stream import CHUNK
from attnbench.kernels.grid import Layout
from attnbench.kernels.partition import partition_cuboids
from attnbench.kernels.plan import Plan
from attnbench.methods.registry import find_method

CORRELATION, OVERLAP = "block_mass_correlation", "mask_iou"
ONE_STEP = "there is no earlier step of this layer to compare with"
BLIND = "there is no k of the step before to compare with"
STATIC, DENSE = "its masks do not look at q and k", "it keeps every pair in one of these steps"


def block_mass_measurer() -> Measurer:
    """Return what correlates the block masses of each head with those of the step before, by Pearson.

    A block mass is the mean weight of the queries of a 3-D block on another. The queries are those of both steps.
    """
    before: dict[int, list[Tensor]] = {}

    def measure(seen: Seen) -> Iterator[Finding]:
        layer, grid = seen.call.layer, seen.call.layout.grid
        masses = [found.blocks["3d"].double().cpu() for found in seen.maps]
        last = before.get(layer)
        before[layer] = masses
        if last is None or "k" in seen.call.lacking_before:
            yield Finding.skipped(CORRELATION, BLIND if "k" in seen.call.lacking_before else ONE_STEP)
            return
        own = partition_cuboids(Layout(grid), seen.cuboids["3d"], torch.device("cpu")).own[seen.maps[0].places]

        for head, (old, new) in enumerate(zip(last, masses, strict=True)):

            def correlated(at: Tensor, old: Tensor = old, new: Tensor = new) -> float:
                return _pearson(_by_block(old[at], own[at]), _by_block(new[at], own[at]))

            figure = of_statistic(correlated, len(new), grid.tokens)
            yield told(CORRELATION, figure, head, len(seen.queries))

    return measure


def mask_measurer(planner: Planner) -> Measurer:
    """Return what compares the pairs that each method keeps in a step with those of the step before.

    Masks that are the same by construction are skipped: they would count as stable, and nothing was chosen.
    """
    before: dict[tuple[int, int], Planned] = {}

    def measure(seen: Seen) -> Iterator[Finding]:
        for number, planned in enumerate(planner.plans(seen.call)):
            where: dict[str, Any] = {"method": planned.method, "settings": planned.settings}
            last = before.get((number, seen.call.layer))
            before[number, seen.call.layer] = planned
            reason = _incomparable(last, planned, seen.call)
            if reason:
                yield Finding.skipped(OVERLAP, reason, **where)
                continue
            assert last is not None
            assert last.plan is not None
            assert planned.plan is not None
            for head in range(seen.call.q.shape[1]):
                both, either = _counts(last.plan, planned.plan, head, seen.queries)

                def overlap(at: Tensor, both: Tensor = both, either: Tensor = either) -> float:
                    return float(both[at].sum() / either[at].sum().clamp_min(1))

                figure = of_statistic(overlap, len(both), seen.call.layout.tokens)
                yield told(OVERLAP, figure, head, len(both), density=planned.plan.density, **where)

    return measure


def _incomparable(last: Planned | None, now: Planned, call: AttentionCall) -> str:
    """Return why a plan cannot be compared with that of the step before; empty if it can."""
    if now.plan is None:
        return now.reason
    if not find_method(now.method).depends_on_qk:
        return STATIC
    if "k" in call.lacking_before:
        return BLIND
    if last is None:
        return ONE_STEP
    if last.plan is None:
        return f"there is no mask of the step before to compare with: {last.reason}"
    return DENSE if 1 in (last.plan.density, now.plan.density) else ""


def _counts(old: Plan, new: Plan, head: int, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many keys each query keeps in both plans, and in either, float64 [n] on the CPU."""
    both, either = [], []
    for rows in queries.to(new.device).split(max(1, CHUNK[new.device.type] // new.layout.tokens)):
        a, b = old.key_mask_of(0, head, rows), new.key_mask_of(0, head, rows)
        both.append((a & b).sum(1))
        either.append((a | b).sum(1))
    return torch.cat(both).double().cpu(), torch.cat(either).double().cpu()


def _by_block(mass: Tensor, own: Tensor) -> Tensor:
    """Return the mean weight of the queries of each block that has some, [blocks of queries, blocks]."""
    blocks = mass.shape[1]
    sums = mass.new_zeros(blocks, blocks).index_add_(0, own, mass)
    counts = torch.bincount(own, minlength=blocks)
    return sums[counts > 0] / counts[counts > 0, None]


def _pearson(a: Tensor, b: Tensor) -> float:
    """Return the correlation of two arrays; 1 if both are the same constant, 0 if only one varies."""
    x, y = a.flatten() - a.mean(), b.flatten() - b.mean()
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 1e-12 else float(torch.allclose(a, b))
