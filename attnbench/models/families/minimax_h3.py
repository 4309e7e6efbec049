"""MiniMax-H3: one packed sequence of text, condition, audio and video rows, of which the video's are the last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.errors import Unsupported
from attnbench.kernels.grid import Grid
from attnbench.kernels.remember import kept_with
from attnbench.models.families.family import Family, Qkv, Rotary
from attnbench.models.families.projections import heads_first, join_heads, project_out, split_heads

_HOME = "diffusers.models.transformers.transformer_minimax_h3"


def _attentions(transformer: Any) -> list[Any]:
    return [block.attn for block in transformer.transformer_blocks]


def _grid(transformer: Any, given: Mapping[str, Any]) -> Grid | None:
    """Return the grid of the generated video. Positions and indices are read from the device once for each layout."""
    where, rows = given.get("position_ids"), given.get("video_indices")
    if not isinstance(where, Tensor) or where.dim() != 2 or not isinstance(rows, Tensor):
        return None
    return kept_with((where, rows), "grid of MiniMax-H3", lambda: _video_grid(where.cpu(), rows.cpu()))


def _packed_rows(given: Mapping[str, Any]) -> int:
    return len(given["position_ids"])


def _video_grid(where: Tensor, rows: Tensor) -> Grid:
    """Return the grid of the video whose rows end the sequence.

    Times rise from frame to frame. The images of a condition are video rows too, and may lie right before them; they
    have the time of the first frame, or one after the last, so the rise ends there.

    Args:
        where: coordinates (t, h, w) [rows, 3].
        rows: the video rows.

    Raises:
        Unsupported: if the sequence does not end with whole frames.
    """
    is_video = torch.zeros(len(where), dtype=torch.bool)
    is_video[rows] = True
    if not bool(is_video[-1]):
        raise Unsupported(
            "this call of a MiniMax-H3 transformer does not end with rows of a video: a method needs that"
        )
    others = (~is_video).nonzero()
    tail = where[int(others[-1]) + 1 :] if len(others) else where
    alike = (tail[:, 1:] == tail[-1, 1:]).all(-1).nonzero().flatten()  # the last place of each frame
    size = len(tail) if len(alike) == 1 else int(alike[-1] - alike[-2])
    frames = tail[len(tail) % size :].view(-1, size, 3)
    count = 1
    while count < len(frames) and _follows(frames[-count - 1], frames[-count]):
        count += 1
    height = len(torch.unique_consecutive(frames[-1, :, 1]))
    if size % height:
        raise Unsupported(f"a frame of {size} rows with {height} heights is no grid, which a method needs")
    return Grid(count, height, size // height)


def _follows(before: Tensor, after: Tensor) -> bool:
    """Return whether one frame [rows, 3] is of an earlier time than another, and at the same places."""
    return bool(before[0, 0] < after[0, 0]) and torch.equal(before[:, 1:], after[:, 1:])


def _project(attn: Any, tokens: Tensor, text: Tensor | None, turns: Rotary | None) -> Qkv:
    fused = getattr(attn, "fused_projections", False)
    parts = attn.to_qkv(tokens).chunk(3, dim=-1) if fused else (attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens))
    q, k, v = split_heads(attn, *parts)
    q, k = attn.norm_q(q), attn.norm_k(k)
    if turns is not None:
        q, k = _rotate(q, *turns), _rotate(k, *turns)
    return heads_first(q, k, v)


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate by halves the first channels of ``x`` [B, N, heads, head_dim], as many as tables [N, channels] have."""
    cosines, sines = (table.to(x.dtype)[None, :, None] for table in (cosines, sines))
    turning, rest = x[..., : cosines.shape[-1]], x[..., cosines.shape[-1] :]
    first, second = turning.chunk(2, dim=-1)
    return torch.cat([turning * cosines + torch.cat([-second, first], -1) * sines, rest], -1)


def _finish(attn: Any, output: Tensor, text: int) -> Tensor:
    return project_out(attn, join_heads(output))


FAMILY = Family(
    name="minimax-h3",
    transformer=f"{_HOME}.MiniMaxH3Transformer3DModel",
    processor=f"{_HOME}.MiniMaxH3AttnProcessor",
    attentions=_attentions,
    grid=_grid,
    project=_project,
    finish=_finish,
    text_first=True,
    packed_rows=_packed_rows,
    time_rises=True,
    spreads=("ulysses",),
)
