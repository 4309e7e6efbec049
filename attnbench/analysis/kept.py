"""What the pairs that methods keep hold of full attention: the share of its weights, and the error of the output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnbench.analysis.attention import MAP, told
from attnbench.analysis.call import AttentionCall, Finding, Measurer, Seen
from attnbench.analysis.estimates import of_mean, of_statistic
from attnbench.analysis.plans import Planned, Planner
from attnbench.analysis.stream import CHUNK
from attnbench.bench.recall import WORST
from attnbench.kernels.grid import Grid, coordinates
from attnbench.kernels.plan import Plan

TENTH = 10


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What a plan keeps of the rows of a head, on the CPU in float64.

    Attributes:
        recall: [n], the share of each query's weight on kept keys.
        lost: [n, T], the weight on dropped video keys at each distance in frames; of text queries it is 0.
        error, full: [n], squared lengths of the output's error and of full attention's output.
    """

    recall: Tensor
    lost: Tensor
    error: Tensor
    full: Tensor


def kept_measurer(planner: Planner) -> Measurer:
    """Return what measures the recall and the error of every method's plans, head by head."""

    def measure(seen: Seen) -> Iterator[Finding]:
        planned = planner.plans(seen.call)
        for each in planned:
            if each.plan is None:
                yield Finding.skipped("mass_recall", each.reason, method=each.method, settings=each.settings)
        able = [each for each in planned if each.plan is not None]
        if not able:
            return
        for head in range(seen.call.q.shape[1]):
            plans = [each.plan for each in able if each.plan is not None]
            for each, kept in zip(able, kept_of(seen.call, head, seen.queries, plans), strict=True):
                yield from _told(seen, head, each, kept)

    return measure


def kept_of(call: AttentionCall, head: int, queries: Tensor, plans: Sequence[Plan]) -> list[Kept]:
    """Return what each plan keeps of some rows of a head.

    Weights are computed once for all plans, a few rows at a time: in float32, or float64 for such q.

    Args:
        call: the call.
        head: of q.
        queries: int64 [n], on the CPU.
        plans: of the call.
    """
    q, k, v = call.head(head)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    keys, values = k.to(wide), v.to(wide)
    parts: list[list[tuple[Tensor, ...]]] = [[] for _ in plans]
    for rows in queries.split(max(1, CHUNK[q.device.type] // call.layout.tokens)):
        there = rows.to(q.device)
        weights = (q[there].to(wide) @ keys.T * call.scale).softmax(-1)
        full = weights @ values
        for part, plan in zip(parts, plans, strict=True):
            mask = plan.key_mask_of(0, head, there)
            left = weights * mask
            recall = left.sum(1)
            output = (left @ values) / recall.clamp_min(torch.finfo(wide).tiny)[:, None]
            error = (output - full).square().sum(1)
            lost = _by_frame(weights - left, call, rows)
            part.append(tuple(x.double().cpu() for x in (recall, lost, error, full.square().sum(1))))
    return [Kept(*(torch.cat(each) for each in zip(*part, strict=True))) for part in parts]


def _by_frame(weights: Tensor, call: AttentionCall, queries: Tensor) -> Tensor:
    """Return the weight of rows [R, N] at each distance in frames, [R, T]; 0 for rows of text."""
    layout, grid = call.layout, call.layout.grid
    frames = weights[:, layout.video].unflatten(1, (grid.t, -1)).sum(2)
    place = queries - layout.text[0]
    video = ((place >= 0) & (place < grid.tokens)).to(weights.device)
    own = (place.clamp(0, grid.tokens - 1) // (grid.h * grid.w)).to(weights.device)
    apart = (torch.arange(grid.t, device=weights.device)[None] - own[:, None]).abs()
    return torch.zeros_like(frames).scatter_add_(1, apart, frames) * video[:, None]


def _told(seen: Seen, head: int, planned: Planned, kept: Kept) -> Iterator[Finding]:
    assert planned.plan is not None
    tokens, n = seen.call.layout.tokens, len(kept.recall)
    of: dict[str, Any] = {
        "method": planned.method, "settings": planned.settings, "density": round(float(planned.plan.density), 6),
    }  # fmt: skip
    points, shape = place_map(kept.recall, seen)
    yield told("mass_recall", of_mean(kept.recall, tokens), head, n, points=points, shape=shape, **of)
    for name, share in (("mass_recall_worst", WORST), ("mass_recall_worst_tenth", TENTH)):

        def worst(at: Tensor, share: int = share) -> float:
            return lowest(kept.recall[at], share)

        yield told(name, of_statistic(worst, n, tokens), head, n, **of)
    yield told(
        "mass_lost", of_mean(1 - kept.recall, tokens), head, n, points=kept.lost.mean(0),
        shape=f"dt={kept.lost.shape[1]}", **of,
    )  # fmt: skip

    def error(at: Tensor) -> float:
        return math.sqrt(float(kept.error[at].sum() / kept.full[at].sum().clamp_min(1e-300)))

    yield told("approximation_error", of_statistic(error, n, tokens), head, n, **of)


def lowest(recall: Tensor, share: int) -> float:
    """Return the mean over the queries of which least is kept, one in ``share`` and at least one."""
    count = max(1, len(recall) // share)
    return float(recall.double().topk(count, largest=False).values.mean())


def place_map(values: Tensor, seen: Seen) -> tuple[Tensor, str]:
    """Return the mean of values [n] over the video queries of each cell of a frame, at most 8 × 8, and its shape.

    A cell without a sampled query has the mean of all.
    """
    grid: Grid = seen.call.layout.grid
    places = seen.maps[0].places
    video = torch.isin(seen.queries, places + seen.call.layout.text[0])
    h, w = min(MAP, grid.h), min(MAP, grid.w)
    at = coordinates(grid, torch.device("cpu"))[places]
    cell = at[:, 1] * h // grid.h * w + at[:, 2] * w // grid.w
    values = values[video]
    sums = values.new_zeros(h * w).index_add_(0, cell, values)
    counts = torch.bincount(cell, minlength=h * w)
    mean = values.mean() if len(values) else values.new_zeros(())
    return torch.where(counts > 0, sums / counts.clamp_min(1), mean), f"h={h},w={w}"
