"""Partitions of a token sequence into blocks: cuboids of the grid, or ranges of raster order; edges are ragged."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from attnbench.kernels.grid import Layout, coordinates


@dataclass(frozen=True, eq=False)
class Partition:
    """A token order in which every block is contiguous, and where the blocks begin.

    Attributes:
        order: int64 [N], the token at each position; None means grid order.
        offsets: int64 [blocks + 1], ascending from 0 to N; block ``i`` is positions ``offsets[i]`` to ``offsets[i+1]``.
        text: the number of leading and trailing blocks that hold text tokens (each 0 or 1).
    """

    order: Tensor | None
    offsets: Tensor
    text: tuple[int, int] = (0, 0)

    @property
    def blocks(self) -> int:
        """Number of blocks, text blocks included."""
        return len(self.offsets) - 1

    @property
    def video(self) -> slice:
        """The blocks that hold video tokens."""
        return slice(self.text[0], self.blocks - self.text[1])

    @property
    def sizes(self) -> Tensor:
        """Tokens of each block, int64 [blocks]."""
        return self.offsets.diff()

    def block_of_token(self) -> Tensor:
        """Return the block of each token, int64 [N], tokens in grid order."""
        block = torch.repeat_interleave(self.sizes)
        if self.order is None:
            return block
        return torch.empty_like(block).scatter_(0, self.order, block)


@lru_cache(maxsize=64)
def partition_cuboids(layout: Layout, block: tuple[int, int, int], device: torch.device) -> Partition:
    """Split the grid into cuboids of ``block`` = (t, h, w) tokens, the last of each axis as short as it comes out.

    Blocks are numbered T-major, and so are the tokens within a block. Text before and after the video is one block
    each.
    """
    cells = coordinates(layout.grid, device) // torch.tensor(block, device=device)
    counts = [-(-side // size) for side, size in zip(layout.grid.shape, block, strict=True)]
    number = (cells[:, 0] * counts[1] + cells[:, 1]) * counts[2] + cells[:, 2]
    order = torch.argsort(number, stable=True)
    sizes = torch.bincount(number, minlength=counts[0] * counts[1] * counts[2])
    return _with_text(layout, order, sizes)


@lru_cache(maxsize=64)
def partition_ranges(layout: Layout, size: int, device: torch.device) -> Partition:
    """Split the video tokens, in raster order, into ranges of ``size`` tokens; the last may be shorter."""
    n = layout.grid.tokens
    edges = torch.arange(0, n + size, size, device=device).clamp_(max=n)
    return _with_text(layout, torch.arange(n, device=device), edges.diff())


@lru_cache(maxsize=8)
def whole(layout: Layout, device: torch.device) -> Partition:
    """Return the partition that is one block of all N tokens."""
    return Partition(None, torch.tensor([0, layout.tokens], device=device))


def _with_text(layout: Layout, order: Tensor, sizes: Tensor) -> Partition:
    before, after = layout.text
    parts = [sizes.new_tensor([before])] * (before > 0) + [sizes] + [sizes.new_tensor([after])] * (after > 0)
    offsets = torch.cat([sizes.new_zeros(1), torch.cat(parts).cumsum(0)])
    grid_order = torch.arange(len(order), device=order.device)
    if torch.equal(order, grid_order):
        return Partition(None, offsets, (int(before > 0), int(after > 0)))
    ends = torch.arange(layout.tokens, device=order.device)
    whole_order = torch.cat([ends[:before], order + before, ends[layout.tokens - after :]])
    return Partition(whole_order, offsets, (int(before > 0), int(after > 0)))
