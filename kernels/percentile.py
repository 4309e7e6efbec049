"""Cut the block pairs of a whole head at a percentile: in torch, and as an operator with kernels of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.operators import operator
from attnbench.kernels.phases import phase
from attnbench.kernels.selection_ops import uses_kernels


def at_or_above_rank(values: Tensor, rank: int) -> Tensor:
    """Keep what is at least the ``rank``-th smallest value of a head, in torch; arguments as of ``cut_percentile``."""
    if rank == 0:
        return torch.ones_like(values, dtype=torch.bool)
    flat = values.masked_fill(values.isnan(), -torch.inf).flatten(-2)
    least = flat.kthvalue(rank, dim=-1).values
    return (flat >= least[..., None]).view_as(values) | values.isnan()


@operator("attnbench::cut_percentile")
def _cut_percentile(values: Tensor, rank: int) -> Tensor:
    if uses_kernels(values) and values.dtype == torch.float32:
        from attnbench.kernels.gpu.selection import cut_percentile as kernels

        with torch.cuda.device_of(values), phase("select"):
            return kernels.cut_percentile(values.contiguous(), rank)
    with phase("select"):
        return at_or_above_rank(values, rank)


@_cut_percentile.register_fake
def _(values: Tensor, rank: int) -> Tensor:
    return values.new_empty(values.shape, dtype=torch.bool)


def cut_percentile(values: Tensor, rank: int) -> Tensor:
    """Keep the block pairs of each head that are at least its ``rank``-th smallest value; equal values are all kept.

    NaN is kept too. In the ranking it comes before the smallest value, so that it takes no other pair's place.

    Args:
        values: float32 or float64 [B, H, q blocks, k blocks], finite or NaN.
        rank: from 0, which keeps everything, to the number of pairs of a head.

    Returns:
        bool [B, H, q blocks, k blocks]. Rows may keep nothing.

    Raises:
        BadInput: for a rank out of range.
    """
    pairs = values.shape[-2] * values.shape[-1]
    if not 0 <= rank <= pairs:
        raise BadInput(f"rank is {rank}; it must be from 0 to {pairs}, the number of pairs of a head")
    keep: Tensor = _cut_percentile(values, rank)
    return keep
