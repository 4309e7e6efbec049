"""Whether a call over several ranks is the call of one process: it is rehearsed, without other processes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from attnbench import api
from attnbench.kernels.grid import Layout
from attnbench.kernels.plan import Plan
from attnbench.methods import Method
from attnbench.methods.per_head import map_tensors
from attnbench.parallel.attend import among
from attnbench.parallel.collectives import Ranks
from attnbench.parallel.rehearsal import rehearse

ROUNDING = 1e-9
"""How far rounding may move a float64 result, as relative L2 error."""


def shards(tokens: int, ranks: int) -> list[slice]:
    """Cut tokens into one piece for each rank: of unequal lengths, where there are enough tokens."""
    ends = [tokens * rank * (rank + 1) // (ranks * (ranks + 1)) for rank in range(ranks + 1)]
    ends = [max(end, rank) for rank, end in enumerate(ends)]
    return [slice(first, stop) for first, stop in pairwise(ends)]


def compare(
    method: Method, settings: Mapping[str, Any], q: Tensor, k: Tensor, v: Tensor, layout: Layout, layer: int,
    steady: Mapping[str, Any], *, parallel: str, ranks: int,
) -> str:  # fmt: skip
    """Compare a call of several ranks with that of one process, output and next state; return what differs, or "".

    Args:
        method: of the call.
        settings: its settings.
        q: [B, H, N, D], float64 on the CPU.
        k, v: [B, KV heads, N, D], likewise.
        layout: of the tokens.
        layer: of the call.
        steady: its step and state; empty for methods without.
        parallel: how ranks share the work.
        ranks: how many there are, at most N.
    """
    step, state = steady.get("step"), steady.get("state")
    cuts = shards(layout.tokens, ranks)
    asked = (method, layout.grid, layout.text, layer, step, state, None, dict(settings))

    def play(here: Ranks) -> tuple[Tensor, Plan]:
        mine = cuts[here.rank]
        with torch.no_grad():
            part = (x[:, :, mine].contiguous() for x in (q, k, v))
            ran = among(here, (*part, *asked), parallel, engine="reference", return_plan=True)
        return ran.output, ran.plan

    with torch.no_grad():
        whole, plan = api.attention(
            q, k, v, method=method, grid=layout.grid, text=layout.text, layer=layer, step=step, state=state,
            engine="reference", return_plan=True, **settings,
        )  # fmt: skip
    expected = _tensors_of(plan.state)
    for rank, (output, own) in enumerate(rehearse(ranks, play)):
        error = float((output - whole[:, :, cuts[rank]]).norm() / whole.norm().clamp(min=1e-30))
        if not error <= ROUNDING:
            return f"the output of rank {rank} of {ranks} differs from that of one process by {error:.2g}"
        found = _tensors_of(own.state)
        if len(found) != len(expected) or not all(map(_alike, found, expected)):
            return (
                f"the state that rank {rank} of {ranks} has afterwards is not that of one process; its tensors must be "
                "[B, heads, …], or alike for all heads"
            )
    return ""


def _tensors_of(state: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(state, found.append)
    return found


def _alike(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    return torch.allclose(x, y, rtol=ROUNDING, equal_nan=True) if x.is_floating_point() else torch.equal(x, y)
