"""Selection in torch: block means, scores of queries against them, and the cuts that turn scores into routes.

These functions define the rule. ``selection_ops`` adds kernels, and ``cuts`` combines the steps.

Scores are [..., N, blocks]: one number for every (query, key block) pair. ``own`` [N] is each query's own block, which
is always kept; the other pairs compete. Among equal scores at a cut, the pair that comes first in (query, block) order
wins.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pool_blocks(x: Tensor, order: Tensor | None, offsets: Tensor) -> Tensor:
    """Average the tokens of each block.

    Args:
        x: [B, H, N, D].
        order: int64 [N], token at each arranged position, or None.
        offsets: int64 [blocks + 1], where each block begins in that order.

    Returns:
        Means in float32 (float64 for float64 input), [B, H, blocks, D].
    """
    sizes = offsets.diff()
    block = torch.repeat_interleave(sizes, output_size=x.shape[2])
    if order is not None:
        block = torch.empty_like(block).scatter_(0, order, block)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    sums = torch.zeros(*x.shape[:2], len(sizes), x.shape[3], dtype=wide, device=x.device)
    for b in range(x.shape[0]):  # one head at a time, so that x is never in memory as a whole in the wider dtype
        for h in range(x.shape[1]):
            sums[b, h].index_add_(0, block, x[b, h].to(wide))
    return sums / sizes[:, None]


def score_blocks(q: Tensor, means: Tensor) -> Tensor:
    """Score every query against every block mean: plain dot products, without softmax or 1/√d.

    Args:
        q: [B, H, N, D].
        means: [B, KV heads, blocks, D] in float32 or float64; KV heads divides H.

    Returns:
        [B, H, N, blocks] in the dtype of ``means``.
    """
    means = means.repeat_interleave(q.shape[1] // means.shape[1], dim=1)
    scores = means.new_empty(*q.shape[:3], means.shape[2])
    # One head at a time: matmul copies all of q if the strides of batch and heads cannot be merged, and so does a cast.
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            scores[b, h] = q[b, h].to(means.dtype) @ means[b, h].T
    return scores


def extremes_of(scores: Tensor) -> Tensor:
    """Return the range of the scores of each head, in the form that the kernels for cuts of whole heads need.

    Args:
        scores: [B, H, N, blocks].

    Returns:
        int32 [B·H, 2]: the image of the highest score, and the complement of the image of the lowest. The image of a
        score is an int32 that sorts like its float32, with -0 equal to 0.
    """
    ends = torch.stack(scores.flatten(2).flatten(0, 1).aminmax(dim=-1)[::-1], 1).float() + 0.0
    bits = ends.view(torch.int32)
    image = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return torch.stack([image[:, 0], ~image[:, 1]], 1)


def is_own(own: Tensor, blocks: int) -> Tensor:
    """Return which (query, block) pairs consist of a query and its own block, bool [N, blocks]."""
    return own[:, None] == torch.arange(blocks, device=own.device)


def top_k_per_query(scores: Tensor, own: Tensor, k: int) -> Tensor:
    """Keep each query's own block and its k - 1 best others; scores of -inf are never kept. bool [..., N, blocks]."""
    own_pairs = is_own(own, scores.shape[-1])
    others = scores.masked_fill(own_pairs, -torch.inf)
    best = others.sort(dim=-1, descending=True, stable=True).indices[..., : max(0, k - 1)]
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)
    return (kept & (others > -torch.inf)) | own_pairs


def top_k_per_head(scores: Tensor, own: Tensor, k: int) -> Tensor:
    """Keep every own block and, over all queries of a head, the best other pairs: k per query on average."""
    own_pairs = is_own(own, scores.shape[-1])
    n, blocks = scores.shape[-2:]
    count = min(max(0, k - 1), blocks - 1) * n
    others = scores.masked_fill(own_pairs, -torch.inf).flatten(-2)
    ranked = others.sort(dim=-1, descending=True).values
    counts = torch.full(others.shape[:-1], count, device=others.device)
    return _first_of_best(others, ranked, counts).reshape(scores.shape) | own_pairs


def threshold_per_query(scores: Tensor, own: Tensor, threshold: float) -> Tensor:
    """Keep, for each query, its own block and then its best others until their shares reach ``threshold``.

    Shares are the scores min-max normalised over the query's blocks and divided by their sum (VMoBA, "query_head").
    """
    own_pairs = is_own(own, scores.shape[-1])
    shares = _shares(scores, (-1,))
    own_share = shares.masked_fill(~own_pairs, 0).sum(-1)
    others = shares.masked_fill(own_pairs, -torch.inf)
    ranked, order = others.sort(dim=-1, descending=True, stable=True)
    count = _needed(ranked, threshold - own_share)
    rank = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    kept = torch.zeros_like(own_pairs.expand_as(scores)).scatter(-1, order, rank < count[..., None])
    return (kept & ~own_pairs) | own_pairs


def threshold_per_head(scores: Tensor, own: Tensor, threshold: float) -> Tensor:
    """Keep every own block, then the best pairs of the whole head until their shares reach ``threshold``.

    Shares are the scores min-max normalised over all (query, block) pairs of the head and divided by their sum (VMoBA,
    "head_global", the paper's global selection, eq. 3 and 4).
    """
    own_pairs = is_own(own, scores.shape[-1])
    shares = _shares(scores, (-2, -1))
    own_share = shares.masked_fill(~own_pairs, 0).sum((-2, -1))
    others = shares.masked_fill_(own_pairs, -torch.inf).flatten(-2)
    ranked = others.sort(dim=-1, descending=True).values
    count = _needed(ranked, threshold - own_share).clamp(max=others.shape[-1] - len(own))
    return _first_of_best(others, ranked, count).reshape(scores.shape) | own_pairs


def _shares(scores: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Normalise by minimum and maximum over ``dims``, and divide by the sum. Equal scores have equal shares."""
    low, high = scores.amin(dims, keepdim=True), scores.amax(dims, keepdim=True)
    spread = high - low
    normal = torch.where(spread > 0, (scores - low) / spread, torch.ones_like(scores))
    return normal / normal.sum(dims, keepdim=True, dtype=torch.float64).to(normal.dtype)


def _needed(ranked: Tensor, remaining: Tensor) -> Tensor:
    """Return how many of the descending shares [..., n] are needed to reach ``remaining`` [...], at least one."""
    total = ranked.clamp(min=0).cumsum(-1, dtype=torch.float64)
    short = (total < remaining.double().clamp(min=0)[..., None]).sum(-1)
    return short + 1


def _first_of_best(values: Tensor, ranked: Tensor, count: Tensor) -> Tensor:
    """Return the ``count`` [...] largest of ``values`` [..., n] as bool.

    Among equal values at the cut, the first ones are chosen.

    ``ranked`` is ``values`` in descending order. The result is the same as marking the first ``count`` indices of a
    stable sort, without storing them, which halves the memory at 75,600 queries × 40 blocks.
    """
    cut = ranked.gather(-1, (count - 1).clamp(min=0)[..., None])
    above = values > cut
    tied = (values == cut) & (cut > -torch.inf)
    room = count[..., None] - above.sum(-1, keepdim=True)
    return torch.where(count[..., None] > 0, above | (tied & (tied.cumsum(-1) <= room)), False)
