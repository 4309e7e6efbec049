"""SubBlock: blocks of 64 tokens keep the key blocks that score highest by their cells, quarters of a block.

The score of a pair of blocks is the log-sum-exp of the scaled scores of all pairs of cells' means: a plain sum, neither
weighted by size nor normalised in a row. A row keeps an exact top-k, whose number is rounded up to a multiple of 8; the
published top-k is an approximation that differs near ties. Text has blocks of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from attnbench.methods.kit import (
    BadInput,
    BlockPattern,
    Call,
    Grid,
    Layout,
    Method,
    Plan,
    Recipe,
    Source,
    as_density,
    as_ints,
    fit,
    keep_text,
    main,
    partition_ranges,
    row_ops,
    score_cells,
)


@dataclass(frozen=True)
class SubBlock(Recipe):
    """Settings.

    Attributes:
        density: share of the video blocks that a row keeps, before the number is rounded up.
        cells: cells of a query block and of a key block; both divide ``block``.
        block: tokens of a block in raster order.
        round_to: the number of blocks of a row is a multiple of this, if there are so many.
    """

    density: float = 0.25
    cells: tuple[int, int] = (4, 4)
    block: int = 64
    round_to: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "density", as_density("density", self.density))
        object.__setattr__(self, "cells", as_ints("cells", self.cells, length=2))
        for name in ("block", "round_to"):
            object.__setattr__(self, name, as_ints(name, getattr(self, name)))
        if any(self.block % cells for cells in self.cells):
            raise BadInput(f"cells is {self.cells}; both must divide the {self.block} tokens of a block")


def resolve(settings: SubBlock, layout: Layout) -> SubBlock:
    """Refuse a chosen block that is larger than the grid. The default may be: it holds all tokens then.

    Raises:
        BadInput: for such a block.
    """
    fit("block", settings.block, SubBlock.block, (layout.grid.tokens,))
    return settings


def plan(settings: SubBlock, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Score cells, and keep the best blocks of each row."""
    parts = [partition_ranges(call.layout, settings.block // cells, q.device) for cells in settings.cells]
    scores, flops = score_cells(q, k, parts[0], parts[1], settings.cells, q.shape[3] ** -0.5)
    keep = row_ops.cut_top_k_row(scores, count(settings, scores.shape[3]))
    partition = partition_ranges(call.layout, settings.block, q.device)
    pattern = BlockPattern(partition.offsets, partition.offsets, keep_text(partition, keep))
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, None, None, flops)


def count(settings: SubBlock, blocks: int) -> int:
    """Return how many of ``blocks`` a row keeps."""
    wanted = math.ceil(settings.density * blocks)
    return min(blocks, -(-wanted // settings.round_to) * settings.round_to)


def twin(settings: SubBlock, layout: Layout, layer: int) -> tuple[SubBlock, Layout]:
    """Up to 6 blocks of few tokens a cell, as ragged as before, of which a row keeps about the same share."""
    n, least = layout.grid.tokens, math.lcm(*settings.cells)
    blocks = -(-n // settings.block)
    few, tail = min(blocks, 6), n - (blocks - 1) * settings.block
    block = min(settings.block, least * max(1, 12 // least))
    last = block if tail == settings.block else max(1, min(block - 1, tail * block // settings.block))
    share = count(settings, blocks) / blocks
    small = replace(settings, block=block, density=share, round_to=1)
    return small, Layout(Grid((few - 1) * block + last, 1, 1), layout.few_text)


METHOD = Method(
    name="subblock",
    summary="blocks keep the key blocks that score highest by the means of their quarters",
    source=Source(
        "sglang: sub-block sparse attention for video diffusion (2026)",
        "https://github.com/sgl-project/sglang/pull/34148",
        "router.py and kernels.py of backends/subblock_sparse",
    ),
    settings=SubBlock,
    plan=plan,
    resolve=resolve,
    twin=twin,
    density_setting="density",
)

if __name__ == "__main__":
    main(METHOD)
