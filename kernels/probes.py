"""Probes of attention by which methods tell kinds of heads: in torch, and as operators with kernels of their own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.flop_formulas import flop_formula
from attnbench.kernels.operators import operator
from attnbench.kernels.phases import phase
from attnbench.kernels.selection_ops import uses_kernels

MOST_CHANNELS = 128
"""Largest head_dim for which the kernels hold a tile of queries, of keys and of values."""

MASK_ROOM = 64
"""Keys of which a row of masks has a multiple in memory, if kernels read it 16 bytes at a time."""


@operator("attnbench::masked_outputs")
def _masked_outputs(q: Tensor, k: Tensor, v: Tensor, masks: Tensor, scale: float) -> Tensor:
    if uses_kernels(q) and q.shape[3] <= MOST_CHANNELS:
        from attnbench.kernels.gpu.selection import probes

        with torch.cuda.device_of(q), phase("score"):
            return probes.masked_outputs(q, k, v, masks, scale)
    with phase("score"):
        return masked_in_torch(q, k, v, masks, scale)


@_masked_outputs.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, masks: Tensor, scale: float) -> Tensor:
    return q.new_empty(masks.shape[0] + 1, *q.shape, dtype=_wide(q))


@operator("attnbench::band_shares")
def _band_shares(q: Tensor, k: Tensor, reach: int, scale: float) -> Tensor:
    if uses_kernels(q) and q.shape[3] <= MOST_CHANNELS:
        from attnbench.kernels.gpu.selection import probes

        with torch.cuda.device_of(q), phase("score"):
            return probes.band_shares(q, k, reach, scale)
    with phase("score"):
        return shares_in_torch(q, k, reach, scale)


@_band_shares.register_fake
def _(q: Tensor, k: Tensor, reach: int, scale: float) -> Tensor:
    return q.new_empty(q.shape[:3], dtype=_wide(q))


def masked_outputs(q: Tensor, k: Tensor, v: Tensor, masks: Tensor, scale: float) -> Tensor:
    """Attend with some queries of each head to all keys, and to those that each mask keeps.

    Args:
        q: [B, H, R, D], the last stride 1.
        k, v: [B, KV heads, N, D], likewise; KV heads divides H.
        masks: bool [M, R, N]; those of ``in_mask_rows`` are not copied.
        scale: factor of the scores.

    Returns:
        [M + 1, B, H, R, D] in float32, or float64 for float64 tensors: without a mask first. A query that keeps no key
        gives 0.
    """
    outputs: Tensor = _masked_outputs(q, k, v, masks, float(scale))
    return outputs


def band_shares(q: Tensor, k: Tensor, reach: int, scale: float) -> Tensor:
    """Return the share of each query's softmax weights on the keys whose place differs by at most ``reach``.

    Args:
        q: [B, H, n, D], the last stride 1.
        k: [B, KV heads, n, D], likewise; KV heads divides H.
        reach: from 0.
        scale: factor of the scores.

    Returns:
        [B, H, n] in float32, or float64 for float64 tensors.
    """
    shares: Tensor = _band_shares(q, k, reach, float(scale))
    return shares


def in_mask_rows(masks: Tensor) -> Tensor:
    """Return masks [M, R, N] whose rows of memory are as ``masked_outputs`` reads them without a copy."""
    (kinds, queries, n), (kind, row, key) = masks.shape, masks.stride()
    room = -(-n // MASK_ROOM) * MASK_ROOM
    first = int(masks.storage_offset())
    last = first + max(kinds - 1, 0) * kind + max(queries - 1, 0) * row
    inside = last + room <= masks.untyped_storage().nbytes()
    if key == 1 and row >= room and (kind | row | first) % 16 == 0 and inside:
        return masks
    rows = masks.new_zeros(*masks.shape[:2], room)
    rows[..., :n] = masks
    return rows[..., :n]


def masked_flops(q_shape: torch.Size, keys: int, masks: int) -> int:
    """Return the operations of ``masked_outputs`` that any implementation needs: scores once, values for each mask."""
    return 2 * math.prod(q_shape) * keys * (masks + 2)


def band_flops(q_shape: torch.Size) -> int:
    """Return the operations of ``band_shares``: the scores."""
    return 2 * math.prod(q_shape) * q_shape[2]


def masked_in_torch(q: Tensor, k: Tensor, v: Tensor, masks: Tensor, scale: float) -> Tensor:
    """Return what ``masked_outputs`` does. Heads that share keys are computed together."""
    wide, group = _wide(q), q.shape[1] // k.shape[1]
    found = []
    for kv in range(k.shape[1]):
        heads = slice(kv * group, (kv + 1) * group)
        scores = (q[:, heads].to(wide) * scale) @ k[:, kv : kv + 1].to(wide).mT
        values = v[:, kv : kv + 1].to(wide)
        weights = [scores.softmax(-1)]
        for mask in masks:
            weights.append(scores.masked_fill(~mask, -torch.inf).softmax(-1).masked_fill(~mask, 0.0))
        found.append(torch.stack([each @ values for each in weights]))
    return torch.cat(found, 2)


def shares_in_torch(q: Tensor, k: Tensor, reach: int, scale: float) -> Tensor:
    """Return what ``band_shares`` does, one head at a time: the weights of all would take a gigabyte at 720p."""
    wide, group = _wide(q), q.shape[1] // k.shape[1]
    place = torch.arange(q.shape[2], device=q.device)
    band = (place[:, None] - place).abs() <= reach
    found = []
    for h in range(q.shape[1]):
        scores = q[:, h].to(wide) @ k[:, h // group].to(wide).mT * scale
        found.append((scores.softmax(-1) * band).sum(-1))
    return torch.stack(found, 1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _masked(q: torch.Size, k: torch.Size, v: torch.Size, masks: torch.Size, *_: Any, **__: Any) -> int:
    return masked_flops(q, k[2], masks[0])


def _banded(q: torch.Size, *_: Any, **__: Any) -> int:
    return band_flops(q)


flop_formula("masked_outputs", _masked)
flop_formula("band_shares", _banded)
