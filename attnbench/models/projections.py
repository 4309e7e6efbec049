"""From the tokens of a Wan block to q, k and v, as diffusers' own processor makes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def project(
    attn: Any, hidden_states: Tensor, rotary_emb: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v [B, N, heads, head_dim] of a self-attention module, as its own processor makes them.

    Args:
        attn: a WanAttention.
        hidden_states: [B, N, channels].
        rotary_emb: cosines and sines, [1, N, 1, head_dim] each, every value twice; None for no rotation.
    """
    if attn.fused_projections:
        q, k, v = attn.to_qkv(hidden_states).chunk(3, dim=-1)
    else:
        q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
    q, k = attn.norm_q(q), attn.norm_k(k)  # over all heads at once
    q, k, v = (x.unflatten(-1, (attn.heads, -1)) for x in (q, k, v))
    if rotary_emb is not None:
        q, k = (rotate(x, *rotary_emb) for x in (q, k))
    return q, k, v


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels of ``x`` [B, N, heads, head_dim]; the products keep the wider dtype."""
    even, odd = x[..., ::2], x[..., 1::2]
    cosine, sine = cosines[..., ::2], sines[..., 1::2]
    turned = torch.empty_like(x)
    turned[..., ::2] = even * cosine - odd * sine
    turned[..., 1::2] = even * sine + odd * cosine
    return turned


def in_autocast_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors as torch's own attention would take them under autocast; unchanged where there is none.

    The RMS norm gives float32 there and the projection of v does not.
    """
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind) or any(x.dtype == torch.float64 for x in tensors):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(kind)) for x in tensors)
