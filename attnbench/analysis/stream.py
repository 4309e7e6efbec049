"""Attention maps row by row: what each query's weights add up to, never N × N of them at once.

Sums over frames, places and blocks come from two reductions of a chunk of rows: over the places of each frame, and over
the frames of each range of frames. Scores are shifted by their largest before anything else, so that the entropy
loses nothing where scores are large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Layout

CHUNK = {"cpu": 2**22, "cuda": 2**28}
"""Weights that are in memory at once: 16 MiB, which fits into caches, and 1 GiB."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadMap:
    """What the rows of one head's map add up to, for n queries of which m are video tokens. All float32 or float64.

    Everything from ``frames`` on is of video queries over video keys alone: their weights are scaled to add up to 1.

    Attributes:
        queries: int64 [n], their tokens.
        places: int64 [m], of those that are video tokens: their places among these, from 0.
        entropy: [n], natural logarithm.
        energy: [n], squared length of the output.
        lse: [n], log-sum-exp of the scores.
        text_mass: [m], weight on text.
        frames: [m, T], weight on each frame.
        rows: [m, H], on each row of tokens.
        columns: [m, W].
        same_place: [m], on the query's own (h, w) in all frames.
        blocks: by partition [m, blocks].
        received: [N], the weight on each key, of the n queries together.
    """

    queries: Tensor
    places: Tensor
    entropy: Tensor
    energy: Tensor
    lse: Tensor
    text_mass: Tensor
    frames: Tensor
    rows: Tensor
    columns: Tensor
    same_place: Tensor
    blocks: Mapping[str, Tensor]
    received: Tensor


def head_map(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scale: float,
    queries: Tensor,
    cuboids: Mapping[str, tuple[int, int, int]],
) -> HeadMap:
    """Add up the weights of some queries of a head.

    Args:
        q, k, v: [N, head_dim]. Computed in float32, or float64 for such tensors.
        layout: the tokens.
        scale: factor of the scores.
        queries: int64 [n], on the CPU, ascending.
        cuboids: the block (t, h, w) of each partition.

    Raises:
        BadInput: if scores or squared outputs are NaN or overflow.
    """
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    keys, values = (x.to(wide) for x in (k, v))
    size = max(1, CHUNK[q.device.type] // layout.tokens)
    received = keys.new_zeros(layout.tokens)
    parts = [
        _rows(q[rows.to(q.device)].to(wide) * scale, keys, values, layout, rows, cuboids, received)
        for rows in queries.split(size)
    ]
    names = ("entropy", "energy", "lse", "text_mass", "frames", "rows", "columns", "same_place")
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    name = str(wide).removeprefix("torch.")
    if not bool(joined["entropy"].isfinite().all()):
        raise BadInput(f"scores of these q and k are NaN or overflow {name}; scale them")
    if not bool(joined["energy"].isfinite().all()):
        raise BadInput(f"squared lengths of outputs of this v overflow {name}; scale it")
    places = queries - layout.text[0]
    places = places[(places >= 0) & (places < layout.grid.tokens)]
    blocks = {name: torch.cat([part.blocks[name] for part in parts]) for name in cuboids}
    return HeadMap(queries, places, **joined, blocks=blocks, received=received)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    entropy: Tensor
    energy: Tensor
    lse: Tensor
    text_mass: Tensor
    frames: Tensor
    rows: Tensor
    columns: Tensor
    same_place: Tensor
    blocks: Mapping[str, Tensor]


def _rows(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, queries: Tensor, cuboids: Mapping[str, tuple[int, int, int]],
    received: Tensor,
) -> _Rows:  # fmt: skip
    """Add up a chunk of rows; ``received`` is added to. q holds the queries, already scaled."""
    grid, (before, _) = layout.grid, layout.text
    scores = q @ k.T
    largest = scores.amax(-1, keepdim=True)
    scores -= largest
    weights = scores.exp()  # not divided by their sum: the small results are
    total = weights.sum(-1)
    entropy = total.log() - _dot(weights, scores) / total
    received += total.reciprocal() @ weights
    lse = largest.squeeze(-1) + total.log()
    energy = ((weights @ v) / total[:, None]).square().sum(-1)

    at = queries - before
    chosen = ((at >= 0) & (at < grid.tokens)).nonzero().squeeze(1)
    at = at[chosen].to(q.device)
    if len(chosen) < len(weights):
        weights, total = (x[chosen.to(q.device)] for x in (weights, total))
    video = weights[:, layout.video].unflatten(1, grid.shape)
    frames = video.sum((2, 3))
    mass = frames.sum(1)
    by_range = {size: _ranges(video, 1, size) for size in {block[0] for block in cuboids.values()} if size < grid.t}
    places = next(iter(by_range.values())).sum(1) if by_range else video.sum(1)
    blocks = {}
    for name, (t, h, w) in cuboids.items():
        if (h, w) == (grid.h, grid.w):
            found = _ranges(frames, 1, t)
        else:
            cells = by_range[t] if t < grid.t else places[:, None]
            found = _ranges(_ranges(cells, 2, h), 3, w).flatten(1)
        blocks[name] = found / mass[:, None]
    own = places.flatten(1).gather(1, (at % (grid.h * grid.w))[:, None]).squeeze(1)
    return _Rows(
        entropy, energy, lse, 1 - mass / total, frames / mass[:, None], places.sum(2) / mass[:, None],
        places.sum(1) / mass[:, None], own / mass, blocks,
    )  # fmt: skip


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the scalar product of each row [R, N] with the same row, [R]."""
    return torch.bmm(a[:, None], b[:, :, None]).flatten()


def _ranges(x: Tensor, axis: int, size: int) -> Tensor:
    """Sum ranges of ``size`` along an axis; the last may be shorter."""
    if size == 1:
        return x
    if x.shape[axis] % size == 0:
        summed: Tensor = x.unflatten(axis, (-1, size)).sum(axis + 1)
        return summed
    return torch.stack([part.sum(axis) for part in x.split(size, axis)], axis)
