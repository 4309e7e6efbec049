"""Checkerboard attention: cuboids of the grid in two colours, neighbours never alike; a query keeps its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from attnbench.methods.kit import (
    BlockPattern,
    Call,
    Grid,
    Layout,
    Method,
    Plan,
    Source,
    as_ints,
    coordinates,
    keep_text,
    main,
    partition_cuboids,
    shrink_axis,
)

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Checkerboard:
    """Settings.

    Attributes:
        block: tokens of a cuboid along (t, h, w), clipped to the grid.
    """

    block: Triple = (2, 8, 8)

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", as_ints("block", self.block, length=3))


def resolve(settings: Checkerboard, layout: Layout) -> Checkerboard:
    """Clip the block to the grid."""
    t, h, w = map(min, settings.block, layout.grid.shape)
    return replace(settings, block=(t, h, w))


def plan(settings: Checkerboard, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep blocks whose indices along the three axes add up to the same parity; shared by batch and heads."""
    grid, block = call.layout.grid, settings.block
    partition = partition_cuboids(call.layout, block, q.device)
    t, h, w = (-(-side // size) for side, size in zip(grid.shape, block, strict=True))
    colour = coordinates(Grid(t, h, w), q.device).sum(-1) % 2
    keep = keep_text(partition, (colour[:, None] == colour)[None, None])
    pattern = BlockPattern(partition.offsets, partition.offsets, keep)
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, partition.order, partition.order)


def twin(settings: Checkerboard, layout: Layout, layer: int) -> tuple[Checkerboard, Layout]:
    """Keep each axis as ragged as it is, with up to 3 blocks of at most 4 tokens."""
    axes = [shrink_axis(n, size) for n, size in zip(layout.grid.shape, settings.block, strict=True)]
    (t, block_t), (h, block_h), (w, block_w) = axes
    return Checkerboard((block_t, block_h, block_w)), Layout(Grid(t, h, w), layout.few_text)


METHOD = Method(
    name="checkerboard",
    summary="every second cuboid of the grid, as on a checkerboard",
    source=Source("An example, not published", "https://example.org/checkerboard"),
    settings=Checkerboard,
    plan=plan,
    resolve=resolve,
    twin=twin,
    depends_on_qk=False,
)

if __name__ == "__main__":
    main(METHOD)
