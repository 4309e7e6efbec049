"""SpargeAttn: blocks whose tokens are alike compete by their means; blocks of unlike tokens stay dense.

Keys are centred on their mean. A block is similar if the mean cosine of its tokens is above a threshold. Each row of
similar key blocks has a softmax, of which the ``topk`` largest shares are kept or, with ``cdf``, the largest as long as
their sum does not pass it. Columns of dissimilar key blocks and rows of dissimilar query blocks are kept whole. The
rule is that of the published code, which takes a short last block for dissimilar, so that it stays dense; with
``rule="paper"`` it is judged by its own tokens.

Only the selection is here: the published kernels also quantise q, k and v, which is another computation.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from attnbench.methods.kit import (
    BadInput,
    BlockPattern,
    Call,
    DensitySetting,
    Grid,
    Layout,
    Method,
    Partition,
    Plan,
    Recipe,
    Source,
    as_choice,
    as_flag,
    as_ints,
    as_numbers,
    check_per_head,
    fit,
    keep_text,
    main,
    ordinary_text,
    partition_ranges,
    phase,
    pool_similarity,
    remembered,
    row_ops,
    score_means,
    selection_ops,
    shrink_axis,
    similarity_flops,
)

Numbers = float | tuple[float, ...]


@dataclass(frozen=True)
class Sparge(Recipe):
    """Settings.

    Attributes:
        block: tokens of a query block and of a key block, in raster order.
        topk: the share of the key blocks that a query block keeps, in (0, 1]; not used with ``cdf``, where it may be
            None.
        cdf: the sum of shares that a query block keeps at most, in (0, 1]; None cuts by ``topk``.
        similarity: the mean cosine above which a block is similar, from -1 to 1.
        smooth_k: centre keys on their mean first.
        sink: all keep the first key block.
        rule: "published", where a short last block stays dense, or "paper".

    ``topk``, ``cdf`` and ``similarity`` are one number, or one for each head.
    """

    TEXT_MAY_BE_ORDINARY: ClassVar[bool] = True

    block: tuple[int, int] = (128, 64)
    topk: Numbers | None = 0.5
    cdf: Numbers | None = None
    similarity: Numbers = -0.1
    smooth_k: bool = True
    sink: bool = False
    rule: str = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "block", as_ints("block", self.block, length=2))
        if self.topk is None and self.cdf is None:
            raise BadInput("topk and cdf are both None; give one of them, which says how much a row keeps")
        for name in ("topk", "cdf"):
            if getattr(self, name) is not None:
                value = as_numbers(name, getattr(self, name), low=0.0, high=1.0, above=True)
                object.__setattr__(self, name, value)
        object.__setattr__(self, "similarity", as_numbers("similarity", self.similarity, low=-1.0, high=1.0))
        for name in ("smooth_k", "sink"):
            as_flag(name, getattr(self, name))
        as_choice("rule", self.rule, ("published", "paper"))


def resolve(settings: Sparge, layout: Layout) -> Sparge:
    """Check the block.

    Raises:
        BadInput: for a chosen block that is larger than the grid.
    """
    fit("block", settings.block, Sparge.block, (layout.grid.tokens,) * 2)
    return settings


def plan(settings: Sparge, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Pool q and k, score similar blocks against each other, and cut each row.

    Raises:
        BadInput: for another number of values of a setting than of heads.
    """
    check_per_head(METHOD, settings, q.shape[1])
    settings = resolve(settings, call.layout)
    layout = call.layout if settings.text_dense else ordinary_text(call.layout)
    queries, keys = (partition_ranges(layout, size, q.device) for size in settings.block)
    centre = None
    if settings.smooth_k:
        video = k[:, :, layout.video]
        centre = selection_ops.pool_means(video, None, _whole(video.shape[2], q.device))[:, :, 0]
    q_means, q_alike = _pooled(settings, q, queries, None, settings.block[0], q.shape[1])
    k_means, k_alike = _pooled(settings, k, keys, centre, settings.block[1], q.shape[1])
    scores = score_means(q_means, k_means)
    with phase("select"):
        scores = scores.masked_fill(~k_alike[:, :, None], -torch.inf)
    shares = row_ops.row_shares(scores, q.shape[3] ** -0.5)
    if settings.cdf is not None:
        keep = row_ops.cut_mass_row(shares, settings.cdf, crossing="out", least=1)
    else:
        assert settings.topk is not None
        keep = row_ops.cut_top_k_row(shares, _counts(settings.topk, shares.shape[3]))
    with phase("select"):
        keep = keep | ~k_alike[:, :, None] | ~q_alike[..., None]
        if settings.sink:
            keep[..., 0] = True
    pattern = BlockPattern(queries.offsets, keys.offsets, keep_text(queries, keep))
    flops = similarity_flops(q.shape) + similarity_flops(k.shape)
    flops += selection_ops.scoring_flops(q_means.shape, k_means.shape[2])
    flops += selection_ops.pooling_flops(k[:, :, layout.video].shape) if settings.smooth_k else 0
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, None, None, flops)


def _pooled(
    settings: Sparge, x: Tensor, partition: Partition, centre: Tensor | None, block: int, heads: int
) -> tuple[Tensor, Tensor]:
    """Return the means of the video blocks [B, H, blocks, D], and which are similar, bool [B, query heads, blocks]."""
    means, cosines = pool_similarity(x, partition.order, partition.offsets, centre)
    means, cosines = means[:, :, partition.video], cosines[:, :, partition.video]
    with phase("select"):
        alike = cosines.repeat_interleave(heads // x.shape[1], 1) > _thresholds(settings.similarity, x.device)
        if settings.rule == "published" and partition.own.shape[0] % block:
            alike[..., -1] = False
    return means, alike


def _counts(topk: Numbers, blocks: int) -> tuple[int, ...]:
    """Return how many key blocks a row keeps; the published code cuts off a product that is rounded to float32."""
    shares = topk if isinstance(topk, tuple) else (topk,)
    return tuple(max(1, int(_float32(share * blocks))) for share in shares)


def _float32(number: float) -> float:
    return float(struct.unpack("f", struct.pack("f", number))[0])


def _thresholds(similarity: Numbers, device: torch.device) -> Tensor:
    """Return the similarities above which blocks are similar, float64 [1 or H, 1]."""
    return _column(similarity if isinstance(similarity, tuple) else (similarity,), device)


@remembered(64)
def _column(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device=device)[:, None]


@remembered(16)
def _whole(tokens: int, device: torch.device) -> Tensor:
    return torch.tensor([0, tokens], device=device)


def share_at(settings: Sparge, layout: Layout, density: float) -> dict[str, float]:
    """Use the density as the share of the key blocks, or of the mass."""
    return {"topk": density} if settings.cdf is None else {"cdf": density}


def twin(settings: Sparge, layout: Layout, layer: int) -> tuple[Sparge, Layout]:
    """At most 6 query blocks of at most 16 tokens and key blocks of half of that, as ragged as the original."""
    n = layout.grid.tokens
    tokens, size = shrink_axis(n, settings.block[0], most_blocks=6, most_block=16)
    keys = max(1, min(tokens, round(size * settings.block[1] / settings.block[0])))
    return replace(settings, block=(size, keys)), Layout(Grid(tokens, 1, 1), layout.few_text)


METHOD = Method(
    name="sparge",
    summary="sparge attention: blocks of alike tokens compete by their means, blocks of unlike tokens stay dense",
    source=Source(
        "SpargeAttention: Accurate and Training-free Sparse Attention Accelerating Any Model Inference (ICML 2025)",
        "https://arxiv.org/abs/2502.18137",
        "section 3.3; the rule of github.com/thu-ml/SpargeAttn at bfd980b",
    ),
    settings=Sparge,
    plan=plan,
    resolve=resolve,
    twin=twin,
    density_setting=DensitySetting(("topk", "cdf"), share_at),
    per_head=("topk", "cdf", "similarity"),
)

if __name__ == "__main__":
    main(METHOD)
