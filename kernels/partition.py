"""Partitions of a token sequence into blocks: cuboids of the grid, or ranges of raster order; edges are ragged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import index

import torch
from torch import Tensor

from attnbench.kernels.grid import Grid, Layout, coordinates
from attnbench.kernels.remember import remembered


@dataclass(frozen=True, eq=False)
class Partition:
    """A token order in which every block is contiguous, with the offsets of the blocks.

    Attributes:
        order: int64 [N], the token at each position; None means grid order.
        offsets: int64 [blocks + 1], ascending from 0 to N; block ``i`` is positions ``offsets[i]`` to ``offsets[i+1]``.
        own: int64 [T·H·W], the block of each video token in grid order, counted among the video blocks.
        text: the number of leading and trailing blocks that hold text tokens (each 0 or 1).
        near: int64 [blocks], the blocks in an order in which those that are close in the grid follow each other: along
            T first, or in squares of 2 × 2 where the grid is one block long. None if that is the order they have.
    """

    order: Tensor | None
    offsets: Tensor
    own: Tensor
    text: tuple[int, int] = (0, 0)
    near: Tensor | None = None

    @property
    def blocks(self) -> int:
        """Number of blocks, text blocks included."""
        return self.offsets.shape[0] - 1  # len() cannot be traced

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


def partition_cuboids(layout: Layout, block: tuple[int, int, int], device: torch.device) -> Partition:
    """Split the grid into cuboids of ``block`` = (t, h, w) tokens. The last one of each axis may be shorter.

    Blocks are numbered T-major, and so are the tokens within a block. Text before and after the video is one block
    each.
    """
    return _cuboids(*layout.numbers, tuple([index(side) for side in block]), device)


def partition_ranges(layout: Layout, size: int, device: torch.device) -> Partition:
    """Split the video tokens, in raster order, into ranges of ``size`` tokens; the last may be shorter."""
    return _ranges(*layout.numbers, index(size), device)


def partition_in_order(layout: Layout, order: Tensor, size: int) -> Partition:
    """Split the video tokens, in an order of their own, into ranges of ``size`` tokens; the last may be shorter.

    This is not remembered; do that where the order is made.

    Args:
        layout: the grid and text; text before and after the video is one block each.
        order: int64 [T·H·W], the video token, in grid order and counted from 0, at each place.
        size: tokens of a block.
    """
    n = layout.grid.tokens
    edges = torch.arange(0, n + size, size, device=order.device).clamp_(max=n)
    own = torch.empty_like(order).scatter_(0, order, torch.arange(n, device=order.device) // size)
    return _with_text(layout, order, edges.diff(), own)


def whole(layout: Layout, device: torch.device) -> Partition:
    """Return the partition with a single block of all N tokens."""
    return _whole(*layout.numbers, device)


@remembered(64)
def _cuboids(shape: tuple[int, ...], text: tuple[int, ...], block: tuple[int, ...], device: torch.device) -> Partition:
    layout = _layout(shape, text)
    cells = coordinates(layout.grid, device) // torch.tensor(block, device=device)
    counts = tuple(-(-side // size) for side, size in zip(shape, block, strict=True))
    number = (cells[:, 0] * counts[1] + cells[:, 1]) * counts[2] + cells[:, 2]
    order = torch.argsort(number, stable=True)
    sizes = torch.bincount(number, minlength=counts[0] * counts[1] * counts[2])
    partition = _with_text(layout, order, sizes, number)
    return replace(partition, near=_near(counts, partition, device))


def _near(counts: tuple[int, ...], partition: Partition, device: torch.device) -> Tensor | None:
    """Return ``Partition.near`` of t · h · w blocks that are numbered T-major, between those of text."""
    t, h, w = counts
    raster = torch.arange(t * h * w, device=device)
    row, column = raster // w % h, raster % w
    if t > 1:
        rank = (row * w + column) * t + raster // (h * w)
    else:
        rank = ((row // 2 * w + column // 2) * 2 + row % 2) * 2 + column % 2
    video, (first, _) = torch.argsort(rank), partition.text
    if torch.equal(video, raster):
        return None
    near = torch.arange(partition.blocks, device=device)
    near[partition.video] = video + first
    return near


@remembered(64)
def _ranges(shape: tuple[int, ...], text: tuple[int, ...], size: int, device: torch.device) -> Partition:
    layout = _layout(shape, text)
    return partition_in_order(layout, torch.arange(layout.grid.tokens, device=device), size)


@remembered(8)
def _whole(shape: tuple[int, ...], text: tuple[int, ...], device: torch.device) -> Partition:
    layout = _layout(shape, text)
    own = torch.zeros(layout.grid.tokens, dtype=torch.int64, device=device)
    return Partition(None, torch.tensor([0, layout.tokens], device=device), own)


def _layout(shape: tuple[int, ...], text: tuple[int, ...]) -> Layout:
    before, after = text
    return Layout(Grid(*shape), (before, after))


def _with_text(layout: Layout, order: Tensor, sizes: Tensor, own: Tensor) -> Partition:
    before, after = layout.text
    parts = [sizes.new_tensor([before])] * (before > 0) + [sizes] + [sizes.new_tensor([after])] * (after > 0)
    offsets = torch.cat([sizes.new_zeros(1), torch.cat(parts).cumsum(0)])
    text = (int(before > 0), int(after > 0))
    if torch.equal(order, torch.arange(len(order), device=order.device)):
        return Partition(None, offsets, own, text)
    ends = torch.arange(layout.tokens, device=order.device)
    whole_order = torch.cat([ends[:before], order + before, ends[layout.tokens - after :]])
    return Partition(whole_order, offsets, own, text)
