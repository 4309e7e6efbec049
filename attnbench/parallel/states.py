"""Bring a method's state of some heads together to that of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attnbench.methods.per_head import map_tensors
from attnbench.parallel.collectives import Ranks
from attnbench.parallel.deal import Deal


def whole_state(ranks: Ranks, dealt: Deal, state: Any, device: torch.device) -> Any:
    """Return the state of all heads, on every rank.

    Args:
        ranks: of the group, each of which has the state of its heads of all queries.
        dealt: which heads these are.
        state: of this rank. Its tensors are [B, heads, ...], [B, KV heads, ...] or less than two-dimensional.
        device: of the call.
    """
    found: list[Tensor] = []
    map_tensors(state, found.append)
    own = torch.tensor([x.shape[1] if x.dim() > 1 else 0 for x in found], device=device)
    counts = [each.tolist() for each in ranks.gather(own, [(len(found),)] * ranks.size)]
    with torch.no_grad():
        joined = iter([_joined(ranks, dealt, x, [each[place] for each in counts]) for place, x in enumerate(found)])
    return map_tensors(state, lambda x: next(joined))


def _joined(ranks: Ranks, dealt: Deal, x: Tensor, counts: list[int]) -> Tensor:
    owners = [list(heads) for heads in dealt.heads]
    if counts != [len(heads) for heads in owners]:
        owners = [list(dealt.kv_heads(rank)) for rank in range(ranks.size)]
        if counts != [len(heads) for heads in owners]:
            return x  # it belongs to no heads, so it is the same on all ranks
    shares = ranks.gather(x, [(x.shape[0], count, *x.shape[2:]) for count in counts])
    by_head = {
        head: share[:, place] for heads, share in zip(owners, shares, strict=True) for place, head in enumerate(heads)
    }
    return torch.stack([by_head[head] for head in sorted(by_head)], 1)
