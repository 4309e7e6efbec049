"""The places of tokens in an engine with tiles of fixed size, and moving tensors there and back.

Tokens lie in the plan's arranged order. Either they follow one another, or every block begins at a multiple of the tile
size. In the second case a tile lies within one block, so whole blocks become whole tiles whatever their size. The
places left at the end of a block repeat its last token; their results are discarded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.phases import phase
from attnbench.kernels.plan import Plan

MOST_PLACES = 2**17
"""Number of places up to which blocks may have any size, so that methods can be verified on small grids."""


@dataclass(frozen=True, eq=False)
class Places:
    """The places of one side of a plan, queries or keys. M is their number.

    Attributes:
        tile: number of places in a tile; the last tile may have fewer.
        tokens: int64 [M] or [B, H, M], the token at each place; None if place and token are the same.
        place_of: int64 [N] or [B, H, N], the place of each token; None in the same case.
        block: int64 [M], the block of the token at each place.
        first: int64 [tiles], the first block of each tile.
        last: the last block of each tile; the same tensor if a tile never lies in two blocks.
        real: bool [M], which places are not repetitions; None if all are known to be real.
    """

    tile: int
    tokens: Tensor | None
    place_of: Tensor | None
    block: Tensor
    first: Tensor
    last: Tensor
    real: Tensor | None

    @property
    def size(self) -> int:
        """M, the number of places."""
        return len(self.block)

    @property
    def by_head(self) -> bool:
        """Whether each head has its own order."""
        return self.tokens is not None and self.tokens.dim() == 3


def consecutive(plan: Plan, side: str, tile: int) -> Places:
    """Place the tokens of ``side`` ("q" or "k") one after another in the arranged order, without waiting."""
    n = plan.layout.tokens
    offsets = plan.pattern.q_offsets if side == "q" else plan.pattern.k_offsets
    order = plan.q_order if side == "q" else plan.k_order
    block = torch.searchsorted(offsets, torch.arange(n, device=offsets.device), right=True) - 1
    begin = torch.arange(0, n, tile, device=offsets.device)
    last = block[(begin + tile - 1).clamp(max=n - 1)]
    return Places(tile, order, None if order is None else _inverse(order), block, block[begin], last, None)


def aligned(plan: Plan, side: str, tile: int) -> Places:
    """Place the tokens of ``side`` ("q" or "k") in the arranged order, and begin every block with a new tile.

    The number of places depends on the block sizes, so offsets that are seen for the first time are read once.
    """
    offsets = plan.pattern.q_offsets if side == "q" else plan.pattern.k_offsets
    order = plan.q_order if side == "q" else plan.k_order
    found = _alignment(offsets, tile)
    if found.real is None:
        place_of = None if order is None else _inverse(order)
        return Places(tile, order, place_of, found.block, found.tile_block, found.tile_block, None)
    tokens, place_of = found.position, found.place_of
    if order is not None:
        tokens = order[..., found.position]
        place_of = torch.empty_like(order).scatter_(-1, order, found.place_of.expand_as(order))
    return Places(tile, tokens, place_of, found.block, found.tile_block, found.tile_block, found.real)


def number_of_places(offsets: Tensor, tile: int) -> int:
    """Return how many places ``aligned`` takes for blocks at these offsets. New offsets are read once."""
    return len(_alignment(offsets, tile).block)


def spread_problem(plan: Plan, tile: int) -> str | None:
    """Return why the blocks of a plan are too small for ``aligned``, as words that follow "engine x", or None."""
    pattern = plan.pattern
    assert isinstance(pattern, BlockPattern)
    most = max(number_of_places(offsets, tile) for offsets in (pattern.q_offsets, pattern.k_offsets))
    if most > max(MOST_PLACES, 2 * plan.layout.tokens):
        return f"would lay {plan.layout.tokens} tokens in small blocks out over {most} places of tiles"
    return None


@dataclass(frozen=True, eq=False)
class _Alignment:
    """What follows from the offsets: the arranged position and block of each place, and the place of each position."""

    position: Tensor
    place_of: Tensor
    block: Tensor
    tile_block: Tensor
    real: Tensor | None


# Partitions are cached, so every call has the same offsets.
_alignments: WeakIdKeyDictionary = WeakIdKeyDictionary()


def _alignment(offsets: Tensor, tile: int) -> _Alignment:
    by_tile = _alignments.setdefault(offsets, {})
    if tile not in by_tile:
        by_tile[tile] = _align(offsets, tile)
    found: _Alignment = by_tile[tile]
    return found


def _align(offsets: Tensor, tile: int) -> _Alignment:
    """Read the offsets, which waits for the device, and place every block."""
    device, starts = offsets.device, offsets.cpu()
    sizes = starts.diff()
    tiles = -(-sizes // tile)
    tile_block = torch.repeat_interleave(tiles)
    block = torch.repeat_interleave(tiles * tile)
    begin = (tiles * tile).cumsum(0) - tiles * tile
    within = torch.arange(len(block)) - begin[block]
    position = starts[block] + torch.minimum(within, sizes[block] - 1)
    of_position = torch.repeat_interleave(sizes)
    place_of = begin[of_position] + torch.arange(len(of_position)) - starts[of_position]
    real = within < sizes[block]
    everywhere = len(block) == len(of_position)
    return _Alignment(
        position.to(device), place_of.to(device), block.to(device), tile_block.to(device),
        None if everywhere else real.to(device),
    )  # fmt: skip


def arrange(x: Tensor, places: Places) -> Tensor:
    """Return x [B, H, N, D] as [B, H, M, D], with the token of every place; differentiable.

    The gradient of a place that repeats a token is ignored. It must be zero, which it is if nothing reads the place.
    """
    if places.tokens is None:
        return x
    moved: Tensor = _Arrange.apply(x, places)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return moved


def restore(x: Tensor, places: Places) -> Tensor:
    """Return x [B, H, M, D] as [B, H, N, D], tokens in grid order; differentiable."""
    if places.place_of is None:
        return x
    moved: Tensor = _Restore.apply(x, places)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return moved


def restore_rows(x: Tensor, places: Places) -> Tensor:
    """Return one number for each query, x [B, H, M], as [B, H, N], tokens in grid order; not differentiable."""
    if places.place_of is None:
        return x
    with phase("unpermute"):
        return _rows(x.detach()[..., None], places.place_of)[..., 0]


class _Arrange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Places) -> Tensor:
        assert places.tokens is not None
        ctx.places = places
        with phase("permute"):
            return _rows(x, places.tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        with phase("permute"):
            return _rows(grad, ctx.places.place_of), None


class _Restore(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Places) -> Tensor:
        assert places.place_of is not None
        ctx.places = places
        with phase("unpermute"):
            return _rows(x, places.place_of)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        with phase("unpermute"):
            return _spread(grad, ctx.places), None


def _spread(grad: Tensor, places: Places) -> Tensor:
    """Return the gradient of tokens [B, H, N, D] as that of places [B, H, M, D]. Repetitions have none."""
    place_of, tokens = places.place_of, places.tokens
    assert place_of is not None
    assert tokens is not None
    if places.real is None:
        return _rows(grad, tokens)
    spread = grad.new_zeros(*grad.shape[:2], places.size, grad.shape[3])
    if place_of.dim() == 1:
        return spread.index_copy_(2, place_of, grad)
    return spread.scatter_(2, place_of[..., None].expand_as(grad), grad)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Gather rows of x [B, H, rows, D] by int64 [M] or [B, H, M]. If heads share the order, x may have fewer heads.

    On CUDA, a kernel gathers at the speed of a copy. Those of torch take 1.1 ms for q, k, v and output of 55,296 tokens
    and 12 heads of 128.
    """
    if x.is_cuda and x.shape[3] > 1:
        from attnbench.kernels.gpu.arrange import arrange as by_kernel

        return by_kernel(x if x.stride(-1) == 1 else x.contiguous(), index)
    if index.dim() == 1:
        return x.index_select(2, index)
    return x.gather(2, index[..., None].expand(-1, -1, -1, x.shape[3]))


def _inverse(order: Tensor) -> Tensor:
    positions = torch.arange(order.shape[-1], device=order.device)
    return torch.empty_like(order).scatter_(-1, order, positions.expand_as(order))
