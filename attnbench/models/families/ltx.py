"""LTX-Video: video tokens by themselves, packed before the transformer sees them; text by cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from attnbench.kernels.errors import Unsupported
from attnbench.kernels.grid import Grid, whole_number
from attnbench.models.families.family import Family, Qkv, Rotary
from attnbench.models.families.projections import (
    heads_first,
    join_heads,
    project_out,
    rotate_in_float32,
    split_heads,
)

_HOME = "diffusers.models.transformers.transformer_ltx"


def _attentions(transformer: Any) -> list[Any]:
    return [block.attn1 for block in transformer.transformer_blocks]


def _grid(transformer: Any, given: Mapping[str, Any]) -> Grid | None:
    tokens = given.get("hidden_states")
    if not isinstance(tokens, Tensor) or tokens.dim() != 3:
        return None
    sides = [whole_number(given.get(name)) for name in ("num_frames", "height", "width")]
    if given.get("video_coords") is not None or any(side is None for side in sides):
        raise Unsupported(
            "this call of an LTX transformer does not say its token grid: a method needs num_frames, height and width, "
            "and no video_coords, which may put tokens anywhere"
        )
    grid = Grid.of(tuple(sides))
    if grid.tokens != tokens.shape[1]:
        raise Unsupported(
            f"an LTX transformer was called with {tokens.shape[1]} tokens and the grid {grid}, which has "
            f"{grid.tokens}: a method needs all tokens of the grid and no other"
        )
    return grid


def _project(attn: Any, video: Tensor, text: Tensor | None, turns: Rotary | None) -> Qkv:
    q, k, v = attn.norm_q(attn.to_q(video)), attn.norm_k(attn.to_k(video)), attn.to_v(video)
    if turns is not None:  # [B, N, heads · head_dim]: every head turns by angles of its own
        q, k = rotate_in_float32(q, *turns), rotate_in_float32(k, *turns)
    q, k, v = split_heads(attn, q, k, v)
    return heads_first(q, k, v)


def _finish(attn: Any, output: Tensor, text: int) -> Tensor:
    return project_out(attn, join_heads(output))


FAMILY = Family(
    name="ltx",
    transformer=f"{_HOME}.LTXVideoTransformer3DModel",
    processor=f"{_HOME}.LTXVideoAttnProcessor",
    attentions=_attentions,
    grid=_grid,
    project=_project,
    finish=_finish,
    spreads=("ulysses",),
)
