"""Steps from tokens to q, k and v that are common to several families."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def split_heads(attn: Any, *tensors: Tensor) -> list[Tensor]:
    """Cut the channels of tensors [B, N, heads · head_dim] into [B, N, heads, head_dim]."""
    return [x.unflatten(-1, (attn.heads, -1)) for x in tensors]


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels of ``x``. The products keep the wider dtype.

    Args:
        x: [..., channels], an even number.
        cosines, sines: tensors that broadcast with ``x``, with every value twice.
    """
    return rotate_pairs(x, cosines[..., ::2], sines[..., 1::2])


def rotate_pairs(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate like ``rotate``, with tables that hold one value for each pair of channels."""
    even, odd = x[..., ::2], x[..., 1::2]
    turned = torch.empty_like(x)
    turned[..., ::2] = even * cosines - odd * sines
    turned[..., 1::2] = even * sines + odd * cosines
    return turned


def rotate_in_float32(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate like ``rotate``, in float32 whatever the dtype of ``x``."""
    return rotate(x.float(), cosines, sines).to(x.dtype)


def in_autocast_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast the tensors to the dtype that torch's own attention would use under autocast; unchanged without autocast.

    Under autocast, some norms return float32, but the projection of v does not.
    """
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind) or any(x.dtype == torch.float64 for x in tensors):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(kind)) for x in tensors)


def heads_first(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v [B, N, heads, head_dim] as [B, heads, N, head_dim], in attention's dtype."""
    q, k, v = in_autocast_dtype(q, k, v)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def join_heads(output: Tensor) -> Tensor:
    """Return attention's output [B, heads, N, head_dim] as tokens [B, N, heads · head_dim]."""
    return output.transpose(1, 2).flatten(2)


def project_out(attn: Any, tokens: Tensor) -> Tensor:
    """Apply the output projection and its dropout to tokens [B, N, C]."""
    projection, dropout = attn.to_out
    projected: Tensor = dropout(projection(tokens))
    return projected
