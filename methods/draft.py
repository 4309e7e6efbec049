"""DraftAttention: patches of a frame keep the patches that a small draft of the attention map scores highest.

Every frame is cut into patches, whose means make a draft of the attention map: a softmax over each row. The entries of
a head compete with one another, not row by row, so a patch may keep nothing. The draft keeps what is at least the k-th
smallest entry, k = int((1 - density) · entries), which is one entry more than the density asks for.

The published code takes only frames of whole patches. Here patches at the edge are as short as they are. A port for
frames of any size (ModelTC/LightX2V at f8aee98) adds the first frame as a sink and the query's own frame: ``sink`` and
``diagonal``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnbench.methods.kit import (
    BlockPattern,
    Call,
    Grid,
    Layout,
    Method,
    Plan,
    Recipe,
    Source,
    as_density,
    as_flag,
    as_ints,
    cut_percentile,
    fit,
    keep_text,
    main,
    partition_cuboids,
    phase,
    row_ops,
    score_block_pairs,
    shrink_axis,
)


@dataclass(frozen=True)
class Draft(Recipe):
    """Settings.

    Attributes:
        patch: tokens of a patch along (h, w).
        density: the share of the pairs of patches that a head keeps, in (0, 1].
        sink: all keep the patches of the first frame.
        diagonal: patches keep all of their own frame.
    """

    patch: tuple[int, int] = (8, 16)
    density: float = 0.25
    sink: bool = False
    diagonal: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "patch", as_ints("patch", self.patch, length=2))
        object.__setattr__(self, "density", as_density("density", self.density))
        for name in ("sink", "diagonal"):
            as_flag(name, getattr(self, name))


def resolve(settings: Draft, layout: Layout) -> Draft:
    """Cut the default patch off at the sides of a frame.

    Raises:
        BadInput: for a chosen patch that is larger than a frame.
    """
    return replace(settings, patch=fit("patch", settings.patch, Draft.patch, layout.grid.shape[1:]))


def plan(settings: Draft, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Pool q and k by patches, and cut the map of each head at a percentile."""
    settings = resolve(settings, call.layout)
    partition = partition_cuboids(call.layout, (1, *settings.patch), q.device)
    scores, flops = score_block_pairs(q, k, partition, partition)
    shares = row_ops.row_shares(scores, q.shape[3] ** -0.5)
    pairs = shares.shape[2] * shares.shape[3]
    keep = cut_percentile(shares, int((1.0 - settings.density) * pairs))
    frame = torch.arange(shares.shape[2], device=q.device) // (shares.shape[2] // call.layout.grid.t)
    with phase("select"):
        if settings.sink:
            keep = keep | (frame == 0)
        if settings.diagonal:
            keep = keep | (frame[:, None] == frame)
    pattern = BlockPattern(partition.offsets, partition.offsets, keep_text(partition, keep))
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, partition.order, partition.order, flops)


def twin(settings: Draft, layout: Layout, layer: int) -> tuple[Draft, Layout]:
    """Up to 3 frames of up to 3 × 3 patches, as ragged as the original."""
    axes = [shrink_axis(n, size) for n, size in zip(layout.grid.shape[1:], settings.patch, strict=True)]
    grid = Grid(min(layout.grid.t, 3), axes[0][0], axes[1][0])
    return replace(settings, patch=(axes[0][1], axes[1][1])), Layout(grid, layout.few_text)


METHOD = Method(
    name="draft",
    summary="draft attention: pairs of patches above a percentile of a head's pooled attention map",
    source=Source(
        "DraftAttention: Fast Video Diffusion via Low-Resolution Attention Guidance (2025)",
        "https://arxiv.org/abs/2505.14708",
        "section 3; the rule of github.com/shawnricecake/draft-attention at f3c81d5",
    ),
    settings=Draft,
    plan=plan,
    resolve=resolve,
    twin=twin,
    density_setting="density",
)

if __name__ == "__main__":
    main(METHOD)
