"""MoBA, Mixture of Block Attention: each query keeps the key blocks whose means it scores highest.

Blocks are ranges of the raster order. A query's own block is always kept and counts among its ``topk``. A video has no
causal order, so the last block, which may be shorter, is a candidate like any other. With ``causal``, a query chooses
among earlier blocks only and sees its own block up to itself, as published for language models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from attnbench.methods.kit import (
    BadInput,
    Call,
    Cut,
    DensitySetting,
    Grid,
    Layout,
    MeanSelection,
    Method,
    Plan,
    RoutedPattern,
    Source,
    Training,
    as_ints,
    causal,
    main,
    partition_ranges,
    quoted,
    route,
    route_text,
    share_of,
    shrink_axis,
)


@dataclass(frozen=True)
class MoBA:
    """Settings.

    Attributes:
        blocks: number of blocks; their size is N / blocks, rounded up. Default 60, as in VMoBA's comparison.
        block_size: tokens in a block, instead of ``blocks``.
        topk: blocks that each query keeps, its own included. A number larger than that of the blocks means all.
        causal: keep only keys at or before the query.
    """

    blocks: int | None = None
    block_size: int | None = None
    topk: int = 15
    causal: bool = False

    def __post_init__(self) -> None:
        if self.blocks is not None and self.block_size is not None:
            raise BadInput(
                f"blocks is {quoted(self.blocks)} and block_size is {quoted(self.block_size)}; give one of them"
            )
        for name in ("blocks", "block_size"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_ints(name, getattr(self, name)))
        object.__setattr__(self, "topk", as_ints("topk", self.topk))
        if not isinstance(self.causal, bool):
            raise BadInput(f"causal is {quoted(self.causal)}; it must be true or false")


def resolve(settings: MoBA, layout: Layout) -> MoBA:
    """Turn a number of blocks into a block size, and cap both sizes."""
    n, given = layout.grid.tokens, settings.block_size
    if given is not None and given <= n and settings.topk <= -(-n // given):
        return settings
    size = given or -(-n // (settings.blocks or 60))
    size = min(size, n)
    return replace(settings, blocks=None, block_size=size, topk=min(settings.topk, -(-n // size)))


def plan(settings: MoBA, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Pool keys, score every query against every block, keep the best blocks of each query."""
    settings = resolve(settings, call.layout)
    assert settings.block_size is not None
    partition = partition_ranges(call.layout, settings.block_size, q.device)
    cut = Cut("topk", "query", settings.topk, causal=settings.causal)
    routes, flops = route(q, k, call.layout, partition, cut, call.shard)
    keep = route_text(partition, call.layout.text, routes)
    pattern = RoutedPattern(partition.offsets, keep, causal() if settings.causal else None)
    selection = MeanSelection(cut.scope)
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, None, partition.order, flops, selection)


def topk_at(settings: MoBA, layout: Layout, density: float) -> dict[str, int]:
    """Keep the share ``density`` of the blocks."""
    assert settings.block_size is not None
    return {"topk": share_of(-(-layout.grid.tokens // settings.block_size), density)}


def twin(settings: MoBA, layout: Layout, layer: int) -> tuple[MoBA, Layout]:
    """At most 6 blocks of 24 tokens, as ragged as the original, choosing about the same share of them."""
    assert settings.block_size is not None
    n = layout.grid.tokens
    tokens, size = shrink_axis(n, settings.block_size, most_blocks=6, most_block=24)
    share = settings.topk / -(-n // settings.block_size)
    topk = max(1, round(share * -(-tokens // size)))
    text = layout.few_text
    return MoBA(block_size=size, topk=topk, causal=settings.causal), Layout(Grid(tokens, 1, 1), text)


METHOD = Method(
    name="moba",
    summary="each query keeps the raster-order blocks it scores highest",
    source=Source(
        "MoBA: Mixture of Block Attention for Long-Context LLMs (2025)", "https://arxiv.org/abs/2502.13189", "2.2"
    ),
    settings=MoBA,
    plan=plan,
    resolve=resolve,
    twin=twin,
    density_setting=DensitySetting(("topk",), topk_at),
    plans_shards=True,
    training=Training(),
)

if __name__ == "__main__":
    main(METHOD)
