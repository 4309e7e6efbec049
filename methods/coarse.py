"""A coarse branch beside attention: tiles attend to tiles by their means, and each token gets its tile's output.

As VSA has it: softmax over the means of the tiles, not weighted by their sizes, times a gate for each token and
channel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels import selection_ops as ops
from attnbench.kernels.errors import BadInput
from attnbench.kernels.told import kind_of


@dataclass(frozen=True, eq=False)
class Tiles:
    """Which tokens take part in a coarse branch, and the tiles they make.

    Attributes:
        order: int64 [N], the token at each arranged position, or None for grid order.
        offsets: int64 [blocks + 1], where each block of all N tokens begins in that order.
        blocks: the blocks that are tiles.
        tokens: the tokens in those tiles, which are successive in grid order.
        tile_of: int64, the tile of each of these tokens, in grid order, counted from the first of ``blocks``.
    """

    order: Tensor | None
    offsets: Tensor
    blocks: slice
    tokens: slice
    tile_of: Tensor


def add_coarse(
    output: Tensor, q: Tensor, k: Tensor, v: Tensor, tiles: Tiles, gate: Tensor | None, scale: float
) -> Tensor:
    """Add the coarse branch to the output of attention. It is differentiable.

    Args:
        output: [B, H, N, D].
        q: [B, H, N, D].
        k, v: [B, KV heads, N, D]; KV heads divides H.
        tiles: on the device of q.
        gate: [B, H, N, D], or None for 1.
        scale: factor of the scores.

    Returns:
        [B, H, N, D] in the dtype of ``output``.
    """
    queries, keys, values = (ops.pool_means(x, tiles.order, tiles.offsets)[:, :, tiles.blocks] for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    if group > 1:
        keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
    coarse = ((queries @ keys.mT * scale).softmax(-1) @ values).to(output.dtype)
    of_tokens = coarse[:, :, tiles.tile_of]
    mine = output[:, :, tiles.tokens]
    added = (
        mine + of_tokens if gate is None else torch.addcmul(mine, gate[:, :, tiles.tokens].to(mine.dtype), of_tokens)
    )
    if added.shape == output.shape:
        return added
    return torch.cat([output[:, :, : tiles.tokens.start], added, output[:, :, tiles.tokens.stop :]], 2)


def coarse_flops(q_shape: torch.Size, k_shape: torch.Size, tiles: Tiles, count: int) -> int:
    """Return the operations of ``add_coarse``, 2 for a multiply-add.

    Args:
        q_shape: [B, H, N, D].
        k_shape: [B, KV heads, N, D].
        tiles: of the branch.
        count: how many tiles there are.
    """
    batch, heads, _, dim = q_shape
    pooled: int = math.prod(q_shape) + 2 * math.prod(k_shape)
    tokens: int = tiles.tokens.stop - tiles.tokens.start
    return pooled + batch * heads * dim * (4 * count**2 + 2 * tokens)


def check_gate(params: object, q: Tensor) -> None:
    """Refuse learned tensors of a method that hold no gate for q.

    Raises:
        BadInput: for anything but None, or a dictionary of a gate that is 1, or strided and like q, saying what it is
            instead.
    """
    if params is None:
        return
    if not isinstance(params, Mapping) or set(params) != {"gate"}:
        raise BadInput(f"params is {kind_of(params)}; it must be {{'gate': a tensor like q, or 1}}, or None")
    gate: object = params["gate"]
    if type(gate) in (int, float) and gate == 1:
        return
    if not isinstance(gate, Tensor) or gate.layout != torch.strided or _like(gate) != _like(q):
        raise BadInput(f"gate is {kind_of(gate)}; it must be 1, or like q, {kind_of(q)}")


def gate_of(params: Mapping[str, Any] | None) -> Tensor | None:
    """Return the gate of params that ``check_gate`` allows, or None for 1: the number, or no params."""
    gate: object = None if params is None else params["gate"]
    return gate if isinstance(gate, Tensor) else None


def _like(x: Tensor) -> tuple[object, ...]:
    return x.shape, x.dtype, x.device
