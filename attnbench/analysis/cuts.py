"""Rules that choose key blocks for queries, at one density: budgets of a query or of a head, and thresholds.

Every rule puts the (query, block) pairs of a head into an order, and the first of them are kept until the density is
reached. So rules differ in what they rank, and in how many pairs each query gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

_SPREAD = (math.sqrt(5) - 1) / 2
"""Its multiples, without their whole part, are spread evenly over 0 to 1."""

Rule = Callable[[Tensor], Tensor]
"""Takes the scores of a head [m, blocks] and returns what pairs are ordered by, the largest first."""


def topk_query(scores: Tensor) -> Tensor:
    """Give every query as many of its best blocks: the fixed budget.

    Where that number is not whole, some queries, evenly spread, get one more.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device, dtype=torch.float64)
    rank = torch.empty_like(scores, dtype=torch.float64).scatter_(1, order, places.expand_as(scores).contiguous())
    spread = torch.arange(scores.shape[0], device=scores.device, dtype=torch.float64) * _SPREAD % 1
    return -(rank + spread[:, None])


def minmax_head(scores: Tensor) -> Tensor:
    """Take the best pairs of the head: the global budget.

    A threshold on min-max normalised shares of the head (VMoBA, eq. 3) keeps the same, since it ranks by the scores.
    """
    return scores


def minmax_query(scores: Tensor) -> Tensor:
    """Take each query's best blocks until their min-max normalised shares reach a threshold, the same for all."""
    raised = (scores - scores.amin(1, keepdim=True)).double()
    total = raised.sum(1, keepdim=True)
    return _reached(torch.where(total > 0, raised / total.clamp_min(1e-300), 1 / scores.shape[1]))


def softmax_head(scores: Tensor) -> Tensor:
    """Take the pairs with the largest softmax shares of their query."""
    return scores.softmax(1)


def softmax_query(scores: Tensor) -> Tensor:
    """Take each query's best blocks until their softmax shares reach a threshold, the same for all."""
    return _reached(scores.double().softmax(1))


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "topk_query": topk_query,
        "minmax_head": minmax_head,
        "minmax_query": minmax_query,
        "softmax_head": softmax_head,
        "softmax_query": softmax_query,
    }
)
"""The rules by name."""


def keep(rule: Rule, scores: Tensor, sizes: Tensor, densities: Sequence[float]) -> Tensor:
    """Return the pairs that a rule keeps at each density, bool [densities, m, blocks].

    The last pair is kept if more than half of it fits.

    Args:
        rule: orders the pairs.
        scores: [m, blocks].
        sizes: tokens of the blocks, [blocks] or [m, blocks].
        densities: of the pairs of tokens that are kept.
    """
    order = rule(scores).flatten().argsort(descending=True, stable=True)
    tokens = sizes.expand_as(scores).flatten()[order].double()
    middle = tokens.cumsum(0) - tokens / 2
    fits = torch.tensor(densities, dtype=torch.float64, device=scores.device) * tokens.sum()
    counts = torch.searchsorted(middle, fits, right=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=scores.device)
    kept: Tensor = (rank < counts[:, None]).unflatten(1, scores.shape)
    return kept


def _reached(shares: Tensor) -> Tensor:
    """Return minus the sum of a query's larger shares: a block is kept if that sum is below the threshold."""
    ordered, order = shares.sort(dim=1, descending=True, stable=True)
    return torch.empty_like(shares).scatter_(1, order, -(ordered.cumsum(1) - ordered))
