"""HunyuanVideo: video tokens, then text tokens, in one attention; the first layers have weights for each."""

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

_HOME = "diffusers.models.transformers.transformer_hunyuan_video"


def _attentions(transformer: Any) -> list[Any]:
    return [block.attn for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks)]


def _grid(transformer: Any, given: Mapping[str, Any]) -> Grid | None:
    side = transformer.config.patch_size
    return grid_of(given.get("hidden_states"), (transformer.config.patch_size_t, side, side))


def _project(attn: Any, video: Tensor, text: Tensor | None, turns: Rotary | None) -> Qkv:
    two_streams = attn.add_q_proj is not None
    video_tokens = video.shape[1]
    tokens = video if two_streams or text is None else torch.cat([video, text], dim=1)
    q, k, v = split_heads(attn, attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens))
    q, k = _norm(attn.norm_q, q), _norm(attn.norm_k, k)
    if turns is not None:
        cosines, sines = (table[None, :, None] for table in turns)  # [N, head_dim] before
        q, k = (
            torch.cat([rotate_in_float32(x[:, :video_tokens], cosines, sines), x[:, video_tokens:]], dim=1)
            for x in (q, k)
        )
    if two_streams and text is not None:
        more = split_heads(attn, attn.add_q_proj(text), attn.add_k_proj(text), attn.add_v_proj(text))
        more[:2] = _norm(attn.norm_added_q, more[0]), _norm(attn.norm_added_k, more[1])
        q, k, v = (torch.cat(pair, dim=1) for pair in zip((q, k, v), more, strict=True))
    return heads_first(q, k, v)


def _norm(norm: Any, x: Tensor) -> Tensor:
    normed: Tensor = x if norm is None else norm(x)
    return normed


def _finish(attn: Any, output: Tensor, text: int) -> tuple[Tensor, Tensor]:
    tokens = join_heads(output)
    video, words = tokens.split([tokens.shape[1] - text, text], dim=1)
    if getattr(attn, "to_out", None) is not None:  # blocks with shared weights project later
        video = project_out(attn, video)
    if getattr(attn, "to_add_out", None) is not None:
        words = attn.to_add_out(words)
    return video, words


FAMILY = Family(
    name="hunyuan",
    transformer=f"{_HOME}.HunyuanVideoTransformer3DModel",
    processor=f"{_HOME}.HunyuanVideoAttnProcessor2_0",
    attentions=_attentions,
    grid=_grid,
    project=_project,
    finish=_finish,
    text_first=False,
    text_mask="encoder_attention_mask",
    mask_counts=True,
)
