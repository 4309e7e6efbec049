"""Lloyd's k-means of the tokens of each head, in torch, without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_DISTANCES = 2**27
"""Distances from tokens to centroids that are in memory at once: 512 MiB in float32."""

SETTLED = 1e-4
"""A step in which no centroid of any head moves this far is the last, and is not taken."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of the tokens of each head.

    Attributes:
        labels: int64 [B, H, N], the centroid nearest to each token before the last step; the first among equals.
        centroids: [B, H, C, D], the means of the clusters after it.
        sizes: int64 [B, H, C], tokens of each cluster, perhaps 0.
    """

    labels: Tensor
    centroids: Tensor
    sizes: Tensor


def cluster(x: Tensor, centroids: Tensor, steps: int) -> Clusters:
    """Take Lloyd steps with squared Euclidean distances.

    A centroid without tokens stays where it is. When the centroids have settled, nothing changes any more.

    Args:
        x: [B, H, N, D].
        centroids: [B, H, C, D] to begin with, float32, or float64 for float64 tokens.
        steps: how many, at least 1.
    """
    settled = torch.zeros((), dtype=torch.bool, device=x.device)
    labels = sizes = None
    for _ in range(steps):
        found, means, counts = _step(x, centroids)
        moved = (means - centroids).square().sum(-1).sqrt().amax()
        labels = found if labels is None else torch.where(settled, labels, found)
        sizes = counts if sizes is None else torch.where(settled, sizes, counts)
        settled = settled | (moved < SETTLED)
        centroids = torch.where(settled, centroids, means)
        if x.device.type == "cpu" and bool(settled):
            break
    assert labels is not None
    assert sizes is not None
    return Clusters(labels, centroids, sizes)


def cluster_flops(x_shape: torch.Size, clusters: int, steps: int) -> int:
    """Return the operations of so many steps: distances, and sums."""
    batch, heads, tokens, width = x_shape
    return steps * batch * heads * tokens * width * (2 * clusters + 1)


def _step(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the label of each token, the means of what has the same label, and the tokens of each label."""
    (batch, heads), width = x.shape[:2], x.shape[3]
    count = centroids.shape[2]
    sums = torch.zeros_like(centroids)
    offset = centroids.square().sum(-1)[:, :, None] / 2
    rows, labels = max(1, MOST_DISTANCES // (batch * heads * count)), []
    for part in x.split(rows, dim=2):
        wide = part.to(centroids.dtype)
        nearest = (wide @ centroids.mT - offset).argmax(-1)
        labels.append(nearest)
        if x.device.type == "cpu":
            sums.scatter_add_(2, nearest[..., None].expand(-1, -1, -1, width), wide)
        else:  # a product adds in the same order every time, which scattering does not
            one_hot = torch.zeros(*nearest.shape, count, dtype=wide.dtype, device=x.device)
            sums += one_hot.scatter_(3, nearest[..., None], 1.0).mT @ wide
    label = torch.cat(labels, 2)
    sizes = torch.zeros(batch, heads, count, dtype=torch.int64, device=x.device)
    sizes.scatter_add_(2, label, torch.ones_like(label))
    means = torch.where(sizes[..., None] > 0, sums / sizes[..., None].clamp(min=1), centroids)
    return label, means, sizes
