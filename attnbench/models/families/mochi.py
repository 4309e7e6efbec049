"""Mochi: video tokens, then the text tokens that are not padding, in one attention; weights of their own for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.grid import Grid
from attnbench.models.families.family import Family, Qkv, Rotary, grid_of
from attnbench.models.families.projections import heads_first, join_heads, project_out, rotate_pairs, split_heads


def _attentions(transformer: Any) -> list[Any]:
    return [block.attn1 for block in transformer.transformer_blocks]


def _grid(transformer: Any, given: Mapping[str, Any]) -> Grid | None:
    side = transformer.config.patch_size
    return grid_of(given.get("hidden_states"), (1, side, side))


def _project(attn: Any, video: Tensor, text: Tensor | None, turns: Rotary | None) -> Qkv:
    q, k, v = split_heads(attn, attn.to_q(video), attn.to_k(video), attn.to_v(video))
    q, k = attn.norm_q(q), attn.norm_k(k)
    if turns is not None:  # [N, heads, head_dim / 2]: every head turns by angles of its own
        q, k = (rotate_pairs(x.float(), *turns).to(x.dtype) for x in (q, k))
    if text is not None:
        more = split_heads(attn, attn.add_q_proj(text), attn.add_k_proj(text), attn.add_v_proj(text))
        more[:2] = attn.norm_added_q(more[0]), attn.norm_added_k(more[1])
        q, k, v = (torch.cat(pair, dim=1) for pair in zip((q, k, v), more, strict=True))
    return heads_first(q, k, v)


def _finish(attn: Any, output: Tensor, text: int) -> tuple[Tensor, Tensor]:
    tokens = join_heads(output)
    video, words = tokens.split([tokens.shape[1] - text, text], dim=1)
    if hasattr(attn, "to_add_out"):  # the last layer has none
        words = attn.to_add_out(words)
    return project_out(attn, video), words


FAMILY = Family(
    name="mochi",
    transformer="diffusers.models.transformers.transformer_mochi.MochiTransformer3DModel",
    processor="diffusers.models.attention_processor.MochiAttnProcessor2_0",
    attentions=_attentions,
    grid=_grid,
    project=_project,
    finish=_finish,
    text_first=False,
    text_mask="encoder_attention_mask",
    time_rises=True,
)
