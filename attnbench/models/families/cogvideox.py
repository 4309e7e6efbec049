"""CogVideoX: text tokens, then video tokens, in one attention, padding included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.grid import Grid
from attnbench.models.families.family import Family, Qkv, Rotary, grid_of
from attnbench.models.families.projections import (
    heads_first,
    join_heads,
    project_out,
    rotate_in_float32,
    split_heads,
)


def _attentions(transformer: Any) -> list[Any]:
    return [block.attn1 for block in transformer.transformer_blocks]


def _grid(transformer: Any, given: Mapping[str, Any]) -> Grid | None:
    config, latents = transformer.config, given.get("hidden_states")
    if not isinstance(latents, Tensor) or latents.dim() != 5:
        return None
    return grid_of(latents.transpose(1, 2), (config.patch_size_t or 1, config.patch_size, config.patch_size))


def _project(attn: Any, video: Tensor, text: Tensor | None, turns: Rotary | None) -> Qkv:
    words = 0 if text is None else text.shape[1]
    tokens = video if text is None else torch.cat([text, video], dim=1)
    q, k, v = split_heads(attn, attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens))
    if attn.norm_q is not None:
        q, k = attn.norm_q(q), attn.norm_k(k)
    if turns is not None:
        cosines, sines = (table[None, :, None] for table in turns)  # [N, head_dim] before
        q, k = (torch.cat([x[:, :words], rotate_in_float32(x[:, words:], cosines, sines)], dim=1) for x in (q, k))
    return heads_first(q, k, v)


def _finish(attn: Any, output: Tensor, text: int) -> tuple[Tensor, Tensor]:
    tokens = project_out(attn, join_heads(output))
    return tokens[:, text:], tokens[:, :text]


FAMILY = Family(
    name="cogvideox",
    transformer="diffusers.models.transformers.cogvideox_transformer_3d.CogVideoXTransformer3DModel",
    processor="diffusers.models.attention_processor.CogVideoXAttnProcessor2_0",
    attentions=_attentions,
    grid=_grid,
    project=_project,
    finish=_finish,
    text_first=True,
)
