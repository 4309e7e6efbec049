"""How much of full attention's mass a plan keeps: over many queries, and over those of which it keeps least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.bench.verify import sample_rows
from attnbench.kernels.plan import Plan

QUERIES = 4096
"""How many queries are sampled at least, over all heads and batch items, if there are so many."""

WORST = 100
"""The queries of which least is kept are one in so many."""

WEIGHTS = 2**22
"""How many weights are in memory at once: in larger pieces, fresh memory takes longer than what is computed."""


@dataclass(frozen=True, slots=True)
class Recall:
    """The share of full attention's weights that is kept, of sampled queries.

    Attributes:
        mean: over all of them.
        worst: over the lowest 1 %, all heads together.
        queries: how many were sampled.
    """

    mean: float
    worst: float
    queries: int


def mass_recall(q: Tensor, k: Tensor, plan: Plan, scale: float, seed: int) -> Recall:
    """Sample queries of every head, and add up their weights on the kept keys. In float32, or float64 for such q.

    Args:
        q: [B, H, N, D].
        k: [B, KV heads, N, D].
        plan: of them.
        scale: factor of the scores.
        seed: of the sample.
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    batch, heads, tokens, _ = q.shape
    each, group = min(tokens, -(-QUERIES // (batch * heads))), heads // k.shape[1]
    found = []
    for b in range(batch):
        for h in range(heads):
            keys = k[b, h // group].to(wide)
            chosen = sample_rows(tokens, seed + 7919 * (b * heads + h), each).to(q.device)
            for rows in chosen.split(max(1, WEIGHTS // tokens)):
                weights = (q[b, h, rows].to(wide) * scale) @ keys.T
                whole = weights.sub_(weights.amax(-1, keepdim=True)).exp_().sum(-1)
                found.append(weights.mul_(plan.key_mask_of(b, h, rows)).sum(-1) / whole)
    shares = torch.cat(found).double().sort().values
    lowest = max(1, len(shares) // WORST)
    return Recall(float(shares.mean()), float(shares[:lowest].mean()), len(shares))
