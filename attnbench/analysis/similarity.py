"""How alike the tokens of a block are, in three orders of the tokens: what decides who may pool."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from attnbench.analysis.attention import told
from attnbench.analysis.call import AttentionCall, Estimate, Finding, Seen
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.partition import Partition, partition_cuboids, partition_ranges
from attnbench.kernels.self_similarity import pool_similarity


@dataclass(frozen=True, slots=True)
class Order:
    """An order of the tokens, cut into blocks.

    Attributes:
        name: of the measure.
        block: (t, h, w) tokens, or a number of tokens in raster order.
    """

    name: str
    block: tuple[int, int, int] | int

    def lacks(self, grid: Grid) -> str:
        """Return why a grid has no such block; empty if it has one."""
        if isinstance(self.block, int):
            few = f"{grid.tokens} token{'s are' if grid.tokens > 1 else ' is'} fewer than a block of {self.block}"
            return few if grid.tokens < self.block else ""
        short = any(side < size for side, size in zip(grid.shape, self.block, strict=True))
        return f"grid {grid} is smaller than a block of {'x'.join(map(str, self.block))}" if short else ""

    def cut(self, grid: Grid, x: Tensor) -> Partition:
        """Return the blocks of the video tokens alone."""
        layout = Layout(grid)
        if isinstance(self.block, int):
            return partition_ranges(layout, self.block, x.device)
        return partition_cuboids(layout, self.block, x.device)


ORDERS = (Order("raster_64", 64), Order("4x4x4", (4, 4, 4)), Order("raster_128", 128), Order("8x16", (1, 8, 16)))
"""Each tile beside as many tokens in raster order: similarity falls with the size of a block."""


def measure_similarity(seen: Seen) -> Iterator[Finding]:
    """Yield the similarity of blocks of the queries and keys of each head; see ``similarity``."""
    yield from similarity(seen.call)


def similarity(call: AttentionCall, names: str = "qk") -> Iterator[Finding]:
    """Yield the mean cosine of two tokens of a block (SpargeAttn, section 3.2), for the queries and keys of each head.

    It is the mean over the video tokens, of all pairs in a token's block, itself included. Keys have the mean of all
    keys taken off, as Sparge smooths them.
    """
    grid, video = call.layout.grid, call.layout.video
    q, k = call.q[:, :, video], call.k[:, :, video]
    group = q.shape[1] // k.shape[1]
    for order in ORDERS:
        lacks = order.lacks(grid)
        for name, x, centre in (("q", q, None), ("k", k, k.float().mean(2))):
            if name not in names:
                continue
            measure = f"self_similarity_{name}_{order.name}"
            if lacks:
                yield Finding.skipped(measure, lacks)
                continue
            partition = order.cut(grid, x)
            _, cosines = pool_similarity(x, partition.order, partition.offsets, centre)
            means = (cosines[0].double() @ partition.sizes.double()) / grid.tokens
            for head in range(q.shape[1]):
                value = float(means[head if name == "q" else head // group])
                yield told(measure, Estimate(value, value, value), head, grid.tokens)
