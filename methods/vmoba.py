"""VMoBA, Mixture of Block Attention for Video: 1-D, 2-D or 3-D blocks depending on the layer, chosen for a whole head.

Layer l splits the grid by partition l mod 3: frames (1-D), patches through all frames (2-D), cuboids (3-D). Queries are
scored against block means. A query's own block is always kept. The other (query, block) pairs are kept from the best
one on, until their shares reach a threshold or the number of blocks is reached. They are ranked for the whole head
together (scope "head", the paper's global selection) or for each query separately (scope "query", local).

The rule is that of the published code. Shares are min-max normalised scores divided by their sum, not a softmax. The
pair that reaches the threshold is still kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

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
    as_choice,
    as_density,
    as_ints,
    main,
    partition_cuboids,
    quoted,
    route,
    route_text,
    share_of,
    shrink_axis,
)

Triple = tuple[int, int, int]
Partitions = tuple[int, tuple[int, int], Triple]

# Table 4 of the paper: partitions, and the blocks that a query keeps where the paper uses top-k.
_PAPER: dict[Triple, tuple[Partitions, Triple | None]] = {
    (21, 30, 52): ((3, (5, 13), (7, 5, 13)), (2, 6, 18)),
    (21, 45, 80): ((3, (9, 10), (7, 15, 20)), (2, 10, 9)),
    (24, 36, 64): ((3, (6, 8), (8, 12, 8)), None),
    (36, 30, 52): ((3, (5, 13), (12, 10, 13)), None),
}


@dataclass(frozen=True)
class VMoBA:
    """Settings.

    Attributes:
        partition: block sizes (frames, (h, w), (t, h, w)) of layers 0, 1 and 2 mod 3. Default: the paper's for its four
            grids; otherwise 3 frames, (⌈H/6⌉, ⌈W/8⌉) and (⌈T/3⌉, ⌈H/3⌉, ⌈W/8⌉).
        select: "threshold" or "topk".
        scope: "head" ranks all pairs of a head together, "query" those of each query separately.
        threshold: the share to reach, in (0, 1].
        topk: blocks that a query keeps, its own included; one number, or one for each partition. With scope "head" it
            is the average. Default: the paper's numbers where it states them, otherwise a quarter of the blocks.
    """

    partition: Partitions | None = None
    select: str = "threshold"
    scope: str = "head"
    threshold: float = 0.25
    topk: int | Triple | None = None

    def __post_init__(self) -> None:
        if self.partition is not None:
            object.__setattr__(self, "partition", _as_partitions(self.partition))
        as_choice("select", self.select, ("threshold", "topk"))
        as_choice("scope", self.scope, ("head", "query"))
        object.__setattr__(self, "threshold", as_density("threshold", self.threshold))
        if isinstance(self.topk, (tuple, list)):
            object.__setattr__(self, "topk", as_ints("topk", self.topk, length=3))
        elif self.topk is not None:
            object.__setattr__(self, "topk", as_ints("topk", self.topk))


def _as_partitions(value: object) -> Partitions:
    wanted = "three blocks in the order 1-D, 2-D, 3-D, such as (3, (6, 8), (8, 12, 8))"
    if not isinstance(value, (tuple, list)) or len(value) != 3:
        raise BadInput(f"partition is {quoted(value)}; it must be {wanted}")
    try:
        frames: Any = value[0][0] if isinstance(value[0], (tuple, list)) and len(value[0]) == 1 else value[0]
        return as_ints("", frames), as_ints("", value[1], length=2), as_ints("", value[2], length=3)
    except BadInput:
        raise BadInput(f"partition is {quoted(value)}; it must be {wanted}, of whole numbers of at least 1") from None


def resolve(settings: VMoBA, layout: Layout) -> VMoBA:
    """Fill in the partition, and the top-k where it is used."""
    if settings.partition is not None and (settings.select != "topk" or settings.topk is not None):
        return settings
    t, h, w = layout.grid.shape
    general: Partitions = (3, (-(-h // 6), -(-w // 8)), (-(-t // 3), -(-h // 3), -(-w // 8)))
    paper, paper_topk = _PAPER.get(layout.grid.shape, (general, None))
    partition = settings.partition or paper
    topk = settings.topk
    if settings.select == "topk" and topk is None:
        if partition == paper and paper_topk is not None:
            topk = paper_topk
        else:
            topk = tuple(-(-_blocks(layout.grid, cuboid(partition, layout.grid, kind)) // 4) for kind in range(3))  # type: ignore[assignment]  # three of them
    return replace(settings, partition=partition, topk=topk)


def cuboid(partition: Partitions, grid: Grid, layer: int) -> Triple:
    """Return the block size of a layer as (t, h, w) tokens, clipped to the grid."""
    frames, (h, w), (t3, h3, w3) = partition
    sizes: Triple = ((frames, grid.h, grid.w), (grid.t, h, w), (t3, h3, w3))[layer % 3]
    return min(sizes[0], grid.t), min(sizes[1], grid.h), min(sizes[2], grid.w)


def _blocks(grid: Grid, block: Triple) -> int:
    t, h, w = (-(-side // size) for side, size in zip(grid.shape, block, strict=True))
    return t * h * w


def plan(settings: VMoBA, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Pool keys, score every query against every block, and cut."""
    settings = resolve(settings, call.layout)
    assert settings.partition is not None
    partition = partition_cuboids(call.layout, cuboid(settings.partition, call.layout.grid, call.layer), q.device)
    routes, flops = route(q, k, call.layout, partition, _cut(settings, call.layer), call.shard)
    keep = route_text(partition, call.layout.text, routes)
    pattern = RoutedPattern(partition.offsets, keep, near=partition.near)
    selection = MeanSelection(settings.scope)
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, None, partition.order, flops, selection)


def _cut(settings: VMoBA, layer: int) -> Cut:
    if settings.select == "threshold":
        return Cut("threshold", settings.scope, settings.threshold)
    topk = settings.topk[layer % 3] if isinstance(settings.topk, tuple) else settings.topk
    assert topk is not None
    return Cut("topk", settings.scope, topk)


def distinct_layers(settings: VMoBA, layers: int) -> tuple[int, ...]:
    """The three partitions take turns, so layers 0, 1 and 2 represent all."""
    return tuple(range(min(3, layers)))


def cut_at(settings: VMoBA, layout: Layout, density: float) -> dict[str, Any]:
    """Use the density as the threshold or, with top-k, as the share of the blocks of each partition."""
    if settings.select == "threshold":
        return {"threshold": density}
    partition = settings.partition
    assert partition is not None
    counts = (_blocks(layout.grid, cuboid(partition, layout.grid, kind)) for kind in range(3))
    return {"topk": tuple(share_of(count, density) for count in counts)}


def twin(settings: VMoBA, layout: Layout, layer: int) -> tuple[VMoBA, Layout]:
    """A grid that is just as ragged in this layer's blocks, which have at most 4 tokens on each axis."""
    assert settings.partition is not None
    block = cuboid(settings.partition, layout.grid, layer)
    axes = [shrink_axis(n, size) for n, size in zip(layout.grid.shape, block, strict=True)]
    grid = Grid(*(length for length, _ in axes))
    t, h, w = (size for _, size in axes)
    topk = settings.topk
    if settings.select == "topk" and topk is not None:
        chosen = topk[layer % 3] if isinstance(topk, tuple) else topk
        share = chosen / _blocks(layout.grid, block)
        topk = max(1, round(share * _blocks(grid, (t, h, w))))
    text = layout.few_text
    return replace(settings, partition=(t, (h, w), (t, h, w)), topk=topk), Layout(grid, text)


METHOD = Method(
    name="vmoba",
    summary="mixture of block attention for video: 1-D, 2-D and 3-D blocks by layer, chosen for a whole head",
    source=Source(
        "VMoBA: Mixture-of-Block Attention for Video Diffusion Models (ICLR 2026)",
        "https://arxiv.org/abs/2506.23858",
        "section 3, eq. 1 to 4; table 4",
    ),
    settings=VMoBA,
    plan=plan,
    resolve=resolve,
    distinct_layers=distinct_layers,
    twin=twin,
    density_setting=DensitySetting(("threshold", "topk"), cut_at),
    plans_shards=True,
    training=Training(needed=lambda settings: (settings.scope, settings.select) != ("query", "topk")),
)

if __name__ == "__main__":
    main(METHOD)
