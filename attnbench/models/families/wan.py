"""Wan 2.1 and 2.2: video tokens by themselves, text and image by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from attnbench.kernels.grid import Grid
from attnbench.models.families.family import Family, Qkv, Rotary, grid_of
from attnbench.models.families.projections import heads_first, join_heads, project_out, rotate, split_heads

_HOME = "diffusers.models.transformers.transformer_wan"


def _attentions(transformer: Any) -> list[Any]:
    return [block.attn1 for block in transformer.blocks]


def _grid(transformer: Any, given: Mapping[str, Any]) -> Grid | None:
    return grid_of(given.get("hidden_states"), transformer.config.patch_size)


def _project(attn: Any, video: Tensor, text: Tensor | None, turns: Rotary | None) -> Qkv:
    if attn.fused_projections:
        q, k, v = attn.to_qkv(video).chunk(3, dim=-1)
    else:
        q, k, v = attn.to_q(video), attn.to_k(video), attn.to_v(video)
    q, k = attn.norm_q(q), attn.norm_k(k)  # over all heads at once
    q, k, v = split_heads(attn, q, k, v)
    if turns is not None:  # [1, N, 1, head_dim]
        q, k = rotate(q, *turns), rotate(k, *turns)
    return heads_first(q, k, v)


def _finish(attn: Any, output: Tensor, text: int) -> Tensor:
    return project_out(attn, join_heads(output))


FAMILY = Family(
    name="wan",
    transformer=f"{_HOME}.WanTransformer3DModel",
    processor=f"{_HOME}.WanAttnProcessor",
    attentions=_attentions,
    grid=_grid,
    project=_project,
    finish=_finish,
    spreads=("ulysses", "allgather"),
)
