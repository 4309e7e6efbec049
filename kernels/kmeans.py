"""Lloyd's k-means of the tokens of each head, without waiting for the device.

Its three steps are operators. On CUDA they run the Triton kernels of ``kernels.gpu.selection.clusters``; elsewhere, and
for float64 tokens, the functions here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnbench.kernels.flop_formulas import flop_formula
from attnbench.kernels.operators import operator
from attnbench.kernels.phases import phase
from attnbench.kernels.selection_ops import MOST_CHANNELS, uses_kernels

MOST_DISTANCES = 2**27
"""Distances from tokens to centroids that are in memory at once in torch: 512 MiB in float32."""

SETTLED = 1e-4
"""A step in which no centroid of any head of a batch item moves this far is the last of it, and is not taken."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of the tokens of each head.

    Attributes:
        order: int64 [B, H, N], the tokens by the centroid that was nearest before the last step, the first among
            equals; tokens of one cluster in ascending order.
        offsets: int64 [B, H, C + 1], where each cluster begins in that order; clusters may be empty.
        centroids: [B, H, C, D], the means of the clusters after the last step.
    """

    order: Tensor
    offsets: Tensor
    centroids: Tensor

    @property
    def sizes(self) -> Tensor:
        """Tokens of each cluster, int64 [B, H, C]."""
        return self.offsets.diff()


@operator("attnbench::nearest_centroid")
def _nearest_centroid(x: Tensor, centroids: Tensor) -> Tensor:
    if uses_kernels(x) and centroids.dtype == torch.float32 and x.shape[3] <= MOST_CHANNELS:
        from attnbench.kernels.gpu.selection import clusters

        with torch.cuda.device_of(x), phase("score"):
            return clusters.nearest_centroid(x, centroids)
    with phase("score"):
        return nearest_in_torch(x, centroids)


@_nearest_centroid.register_fake
def _(x: Tensor, centroids: Tensor) -> Tensor:
    return x.new_empty(x.shape[:3], dtype=torch.int64)


@operator("attnbench::group_labels")
def _group_labels(labels: Tensor, groups: int, like: Tensor) -> tuple[Tensor, Tensor]:
    if uses_kernels(like):
        from attnbench.kernels.gpu.selection import clusters

        with torch.cuda.device_of(labels), phase("index"):
            return clusters.group_labels(labels, groups)
    with phase("index"):
        sizes = labels.new_zeros(*labels.shape[:2], groups).scatter_add_(2, labels, torch.ones_like(labels))
        return labels.argsort(dim=-1, stable=True), pad(sizes.cumsum(-1), (1, 0))


@_group_labels.register_fake
def _(labels: Tensor, groups: int, like: Tensor) -> tuple[Tensor, Tensor]:
    return labels.new_empty(labels.shape), labels.new_empty(*labels.shape[:2], groups + 1)


@operator("attnbench::group_means")
def _group_means(x: Tensor, order: Tensor, offsets: Tensor, otherwise: Tensor) -> Tensor:
    if uses_kernels(x) and otherwise.dtype == torch.float32:
        from attnbench.kernels.gpu.selection import clusters

        with torch.cuda.device_of(x), phase("pool"):
            return clusters.group_means(x, order, offsets, otherwise)
    with phase("pool"):
        return means_in_torch(x, order, offsets, otherwise)


@_group_means.register_fake
def _(x: Tensor, order: Tensor, offsets: Tensor, otherwise: Tensor) -> Tensor:
    return otherwise.new_empty(otherwise.shape)


def nearest_centroid(x: Tensor, centroids: Tensor) -> Tensor:
    """Return the centroid with the smallest Euclidean distance to each token, the first of equal ones.

    Args:
        x: [B, H, N, D], the last stride 1.
        centroids: [B, H, C, D], float32, or float64 for float64 tokens.

    Returns:
        int64 [B, H, N].
    """
    labels: Tensor = _nearest_centroid(x, centroids)
    return labels


def group_labels(labels: Tensor, groups: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """List tokens by their labels, those of equal labels in ascending order.

    Args:
        labels: int64 [B, H, N], from 0 to below ``groups``.
        groups: number of labels; not all of them need to occur.
        like: a tensor whose dtype and device say whether kernels run, as for the tokens that were labelled.

    Returns:
        order int64 [B, H, N], and offsets int64 [B, H, groups + 1], where each label begins in it.
    """
    order, offsets = _group_labels(labels, groups, like)
    return order, offsets


def group_means(x: Tensor, order: Tensor, offsets: Tensor, otherwise: Tensor) -> Tensor:
    """Return the mean of the tokens of each group of a head.

    Args:
        x: [B, H, N, D], the last stride 1.
        order, offsets: what ``group_labels`` returns.
        otherwise: [B, H, groups, D], taken for groups without tokens; float32, or float64 for float64 tokens.

    Returns:
        [B, H, groups, D] in the dtype of ``otherwise``.
    """
    means: Tensor = _group_means(x, order, offsets, otherwise)
    return means


def cluster(x: Tensor, centroids: Tensor, steps: int) -> Clusters:
    """Take Lloyd steps with squared Euclidean distances.

    A centroid without tokens stays where it is. When those of a batch item have settled, nothing of it changes.

    Args:
        x: [B, H, N, D], the last stride 1.
        centroids: [B, H, C, D] to begin with, float32, or float64 for float64 tokens.
        steps: how many, at least 1.
    """
    settled = torch.zeros(len(x), 1, 1, dtype=torch.bool, device=x.device)  # of each batch item
    order = offsets = None
    for _ in range(steps):
        labels = nearest_centroid(x, centroids)
        found, starts = group_labels(labels, centroids.shape[2], x)
        means = group_means(x, found, starts, centroids)
        moved = (means - centroids).square().sum(-1).sqrt().amax((1, 2))
        order = found if order is None else torch.where(settled, order, found)
        offsets = starts if offsets is None else torch.where(settled, offsets, starts)
        settled = settled | (moved < SETTLED)[:, None, None]
        centroids = torch.where(settled[..., None], centroids, means)
    assert order is not None
    assert offsets is not None
    return Clusters(order, offsets, centroids)


def cluster_flops(x_shape: torch.Size, clusters: int, steps: int) -> int:
    """Return the operations of so many steps: distances, and sums."""
    return steps * (nearest_flops(x_shape, clusters) + means_flops(x_shape))


def nearest_flops(x_shape: torch.Size, clusters: int) -> int:
    """Return the operations of ``nearest_centroid``, 2 for a multiply-add."""
    batch, heads, tokens, width = x_shape
    return 2 * batch * heads * tokens * width * clusters


def means_flops(x_shape: torch.Size) -> int:
    """Return the additions of ``group_means``: one for each element of the tokens."""
    batch, heads, tokens, width = x_shape
    return batch * heads * tokens * width


def nearest_in_torch(x: Tensor, centroids: Tensor) -> Tensor:
    """Return what ``nearest_centroid`` does."""
    (batch, heads), count = x.shape[:2], centroids.shape[2]
    offset = centroids.square().sum(-1)[:, :, None] / 2
    rows = max(1, MOST_DISTANCES // (batch * heads * count))
    parts = x.split(rows, dim=2)
    found = torch.cat([(part.to(centroids.dtype) @ centroids.mT - offset).argmax(-1) for part in parts], 2)
    return _first_equals(centroids).gather(2, found)


def _first_equals(centroids: Tensor) -> Tensor:
    """Return the first centroid that is equal to each one, int64 [B, H, C].

    A matrix product may round the columns of equal centroids differently, so that the first of them is not the nearest.
    """
    width, place = centroids.shape[3], torch.arange(centroids.shape[2], device=centroids.device)
    bits = (centroids + 0.0).view(torch.int64 if centroids.dtype == torch.float64 else torch.int32).long()
    weights = torch.arange(1, width + 1, device=centroids.device) * -7046029254386353131  # odd, near 2^64 / 1.618
    order = (bits * weights).sum(-1).argsort(dim=-1, stable=True)  # equal centroids come one after another
    rows = centroids.gather(2, order[..., None].expand_as(centroids))
    begins = pad((rows[:, :, 1:] != rows[:, :, :-1]).any(-1), (1, 0), value=True)
    first = torch.where(begins, place, 0).cummax(-1).values
    return torch.empty_like(order).scatter_(2, order, order.gather(2, first))


def means_in_torch(x: Tensor, order: Tensor, offsets: Tensor, otherwise: Tensor) -> Tensor:
    """Return what ``group_means`` does, with sums that are added in the same order every time."""
    sizes, place = offsets.diff(), torch.arange(order.shape[2], device=x.device).expand_as(order).contiguous()
    group = torch.searchsorted(offsets, place, right=True) - 1
    label = torch.empty_like(group).scatter_(2, order, group)
    sums = torch.zeros_like(otherwise)
    if x.device.type == "cpu":
        sums.scatter_add_(2, label[..., None].expand(-1, -1, -1, x.shape[3]), x.to(otherwise.dtype))
    else:  # scattering adds in any order there
        rows = max(1, MOST_DISTANCES // sizes.numel())
        for part, mine in zip(x.split(rows, dim=2), label.split(rows, dim=2), strict=True):
            one_hot = torch.zeros(*mine.shape, sizes.shape[2], dtype=sums.dtype, device=x.device)
            sums += one_hot.scatter_(3, mine[..., None], 1.0).mT @ part.to(sums.dtype)
    return torch.where(sizes[..., None] > 0, sums / sizes[..., None].clamp(min=1), otherwise)


def _nearest(x_shape: torch.Size, centroids_shape: torch.Size, *_: Any, **__: Any) -> int:
    return nearest_flops(x_shape, centroids_shape[2])


def _means(x_shape: torch.Size, *_: Any, **__: Any) -> int:
    return means_flops(x_shape)


flop_formula("nearest_centroid", _nearest)
flop_formula("group_means", _means)
