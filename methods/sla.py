"""SLA, Sparse-Linear Attention: rows of blocks keep the key blocks they score highest, beside a linear branch.

The published code centres keys on their mean before it pools them. That moves all scores of a row alike, so it changes
no selection and is left out here. A row keeps int(topk · key blocks), as published, but at least one.

Linear attention, φ(q)(Σ φ(k)ᵀv) / (φ(q)·Σ φ(k)), goes through a learned projection and is added to the output. Its sums
are over all keys (``branch="all"``, the published main branch) or over the keys of the blocks that the query's block
does not keep ("rest", the branch SLA-1). With ``rule="paper"``, they are over the rest without the lowest tenth of the
blocks, which no part sees; neither code does that. The projection begins with zeros, so untrained SLA is the sparse
part alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import elu, pad, relu

from attnbench.methods.kit import (
    BadInput,
    BlockPattern,
    BranchCall,
    Call,
    Grid,
    Layout,
    Method,
    Plan,
    Recipe,
    Source,
    Training,
    as_choice,
    as_density,
    as_ints,
    fit,
    keep_text,
    kind_of,
    main,
    ordinary_text,
    partition_ranges,
    row_ops,
    score_block_pairs,
    shrink_axis,
)

EPSILON = 1e-5
"""Added to the normaliser of the branch over all keys, as published."""

LOWEST = 0.1
"""The share of the key blocks of a row that the paper leaves out of both parts."""


@dataclass(frozen=True)
class SLA(Recipe):
    """Settings.

    Attributes:
        block: tokens of a query block and of a key block, in raster order.
        topk: the share of the key blocks that a row keeps, in (0, 1].
        feature_map: φ of the branch: "softmax" over the channels, "elu" plus 1, or "relu".
        branch: linear attention over "all" keys, or over the "rest", those of the blocks that are not kept.
        rule: "published", that of the code, or "paper", whose linear attention is over the rest without the lowest
            tenth of the blocks, whatever ``branch`` says.
    """

    TEXT_MAY_BE_ORDINARY: ClassVar[bool] = True

    block: tuple[int, int] = (64, 64)
    topk: float = 0.2
    feature_map: str = "softmax"
    branch: str = "all"
    rule: str = "published"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "block", as_ints("block", self.block, length=2))
        object.__setattr__(self, "topk", as_density("topk", self.topk))
        as_choice("feature_map", self.feature_map, ("softmax", "elu", "relu"))
        as_choice("branch", self.branch, ("all", "rest"))
        as_choice("rule", self.rule, ("published", "paper"))


def resolve(settings: SLA, layout: Layout) -> SLA:
    """Check the block.

    Raises:
        BadInput: for a chosen block that is larger than the grid.
    """
    fit("block", settings.block, SLA.block, (layout.grid.tokens,) * 2)
    return settings


def plan(settings: SLA, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Pool q and k, score means against means, keep the best of each row.

    Raises:
        BadInput: for params that ``finish`` could not use.
    """
    settings = resolve(settings, call.layout)
    _check(call.params, q)
    layout = call.layout if settings.text_dense else ordinary_text(call.layout)
    queries, keys = (partition_ranges(layout, size, q.device) for size in settings.block)
    scores, flops = score_block_pairs(q, k, queries, keys)
    keep = row_ops.cut_top_k_row(scores, max(1, int(settings.topk * scores.shape[3])))
    pattern = BlockPattern(queries.offsets, keys.offsets, keep_text(queries, keep))
    branch, rest = 6 * q.numel() * q.shape[3], None
    if settings.rule == "paper" or settings.branch == "rest":
        rest = ~keep
        if settings.rule == "paper":
            rest = rest & ~row_ops.cut_top_k_row(-scores, int(LOWEST * scores.shape[3]))
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, None, None, flops, branch_flops=branch, kept=rest)


def _check(params: object, q: Tensor) -> None:
    """Refuse params that are no projection for q.

    Raises:
        BadInput: saying what they are.
    """
    if params is None:
        return
    dim = q.shape[3]
    wanted = {"weight": [dim, dim], "bias": [dim]}
    if not isinstance(params, Mapping) or set(params) != set(wanted):
        raise BadInput(f"params is {kind_of(params)}; sla's must be a dictionary of 'weight' and 'bias'")
    for name, shape in wanted.items():
        x = params[name]
        alike = isinstance(x, Tensor) and x.layout == torch.strided and x.dtype == torch.float32
        if not alike or list(x.shape) != shape or x.device != q.device:
            raise BadInput(f"params[{name!r}] is {kind_of(x)}; it must be float32 {shape} on {q.device}")


def finish(settings: SLA, call: BranchCall, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
    """Add the projection of linear attention, x·Wᵀ + b, to the output.

    ``call.params`` are {"weight": float32 [D, D], "bias": float32 [D]}, both 0 without any.
    """
    wide = _wide(q)
    if call.params is None:
        weight, bias = q.new_zeros(q.shape[3], q.shape[3], dtype=wide), q.new_zeros(q.shape[3], dtype=wide)
    else:
        weight, bias = (call.params[name].to(wide) for name in ("weight", "bias"))
    linear = []
    for h in range(q.shape[1]):  # one head at a time, so that the features of all are never in memory together
        kv = h * k.shape[1] // q.shape[1]
        features = _features(settings, q[:, h]), _features(settings, k[:, kv]), v[:, kv]
        rest: Tensor | None = call.plan.kept
        linear.append(_over_all(*features) if rest is None else _over_rest(settings, call, *features, rest[:, h]))
    branch = torch.nn.functional.linear(torch.stack(linear, 1), weight, bias)
    return (output.to(wide) + branch).to(output.dtype)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _features(settings: SLA, x: Tensor) -> Tensor:
    """Apply φ to [B, N, D]; the result has the dtype of x."""
    wide = x.to(_wide(x))
    if settings.feature_map == "softmax":
        mapped = wide.softmax(-1)
    else:
        mapped = elu(wide) + 1 if settings.feature_map == "elu" else relu(wide)
    return mapped.to(x.dtype)


def _over_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return linear attention over all keys, [B, N, D] in the wide dtype; q and k are features."""
    wide = _wide(q)
    total = (q.to(wide) * k.sum(1, keepdim=True, dtype=wide)).sum(-1, keepdim=True)
    return (q @ (k.transpose(1, 2) @ v)).to(wide) / (total + EPSILON)


def _over_rest(settings: SLA, call: BranchCall, q: Tensor, k: Tensor, v: Tensor, rest: Tensor) -> Tensor:
    """Return linear attention over the blocks of ``rest``, bool [B, q blocks, k blocks] of the video; 0 over none.

    Dense text keeps everything and is kept by everything, so it has no rest and belongs to none.
    """
    wide, layout = _wide(q), call.layout if settings.text_dense else ordinary_text(call.layout)
    rows, columns = rest.shape[1:]
    queries = _blocks(q[:, layout.video], rows, settings.block[0])
    keys, values = (_blocks(x[:, layout.video], columns, settings.block[1]) for x in (k, v))
    products = (rest.to(q.dtype) @ (keys.transpose(2, 3) @ values).flatten(2)).unflatten(2, (q.shape[2], -1))
    totals = rest.to(wide) @ keys.sum(2, dtype=wide)
    norm = (queries.to(wide) * totals[:, :, None]).sum(-1, keepdim=True)
    linear = (queries @ products).to(wide) / torch.where(norm > 0, norm, 1.0)
    before, after = layout.text
    whole: Tensor = pad(linear.flatten(1, 2)[:, : layout.grid.tokens], (0, 0, before, after))
    return whole


def _blocks(x: Tensor, count: int, size: int) -> Tensor:
    """Cut [B, N, D] into [B, count, size, D], with zeros at the end."""
    padded = pad(x, (0, 0, 0, count * size - x.shape[1]))
    blocks: Tensor = padded.unflatten(1, (count, size))
    return blocks


def twin(settings: SLA, layout: Layout, layer: int) -> tuple[SLA, Layout]:
    """At most 6 query blocks of at most 16 tokens, with key blocks in proportion, as ragged as the original."""
    tokens, size = shrink_axis(layout.grid.tokens, settings.block[0], most_blocks=6, most_block=16)
    keys = max(1, min(tokens, round(size * settings.block[1] / settings.block[0])))
    return replace(settings, block=(size, keys)), Layout(Grid(tokens, 1, 1), layout.few_text)


METHOD = Method(
    name="sla",
    summary="sparse-linear attention: the key blocks that a row's mean scores highest, beside a linear branch",
    source=Source(
        "SLA: Beyond Sparsity in Diffusion Transformers via Fine-Tunable Sparse-Linear Attention (ICLR 2026)",
        "https://arxiv.org/abs/2509.24006",
        "section 4; the rule of github.com/thu-ml/SLA at d973e55, and of its branch SLA-1 at 325cc75",
    ),
    settings=SLA,
    plan=plan,
    resolve=resolve,
    twin=twin,
    finish=finish,
    density_setting="topk",
    training=Training("its linear branch adds nothing without training"),
)

if __name__ == "__main__":
    main(METHOD)
