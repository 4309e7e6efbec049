"""The description of a family of video transformers: where its self-attention is, and how tokens enter and leave it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attnbench.kernels.grid import Grid

Qkv = tuple[Tensor, Tensor, Tensor]
"""q, k and v of one layer, each [B, heads, N, head_dim], after norm and rotary embedding."""

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of a rotary embedding, in the layout of the family."""

Output = Tensor | tuple[Tensor, Tensor]
"""What an attention processor returns: the video's tokens, or a pair of the video's and the text's."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of an attention call in the model and in denoising.

    Attributes:
        layer: index of the layer.
        grid: token grid of the video.
        step: denoising step of the clip, from 0.
        text: text tokens before and after the video.
    """

    layer: int
    grid: Grid
    step: int
    text: tuple[int, int] = (0, 0)


Attend = Callable[[Tensor, Tensor, Tensor, Place], Tensor]
"""(q, k, v, place) -> output, all [B, heads, N, head_dim] in grid order; N is the number of tokens of ``place``, text
included."""


@dataclass(frozen=True, slots=True)
class Family:
    """A class of transformers in diffusers.

    Attributes:
        name: what users type.
        transformer: the class, with its module.
        processor: the attention processor that can be replaced faithfully, with its module.
        attentions: (transformer) -> its self-attention modules by layer.
        grid: (transformer, arguments of its forward call by name) -> the token grid, or None if they do not determine
            it.
        project: (attention module, tokens of the video [B, N, C], of the text or None, rotary embedding or None) ->
            q, k and v as the family's own processor makes them.
        finish: (attention module, attention's output [B, heads, N, head_dim], text tokens) -> what the family's own
            processor returns.
        text_first: whether joint text comes before the video; None if text is never joined.
        packed_rows: (arguments of the forward call by name) -> tokens of the whole sequence, where all come to the
            processor in one tensor, the video's behind all others, which count as text; None where text is apart.
        text_mask: argument of the forward call that distinguishes text from padding, [B, text tokens]; None if there is
            none.
        mask_counts: whether the model treats the first tokens as text, as many as the mask marks, wherever it marks
            them.
        time_rises: whether timesteps rise from noise to clip.
        spreads: how ranks may share attention under diffusers' context parallelism, as far as that was tested: by
            "ulysses" and, with a ring, by "allgather".
    """

    name: str
    transformer: str
    processor: str
    attentions: Callable[[Any], list[Any]]
    grid: Callable[[Any, Mapping[str, Any]], Grid | None]
    project: Callable[[Any, Tensor, Tensor | None, Rotary | None], Qkv]
    finish: Callable[[Any, Tensor, int], Output]
    text_first: bool | None = None
    packed_rows: Callable[[Mapping[str, Any]], int] | None = None
    text_mask: str | None = None
    mask_counts: bool = False
    time_rises: bool = False
    spreads: tuple[str, ...] = ()


def class_name(kind: type) -> str:
    """Return the name of a class with its module, in the form that ``Family`` uses."""
    return f"{kind.__module__}.{kind.__qualname__}"


def grid_of(video: object, patch: tuple[int, int, int]) -> Grid | None:
    """Return the token grid of latents [B, C, T, H, W], or None for anything else, which the model itself refuses."""
    if not isinstance(video, Tensor) or video.dim() != 5:
        return None
    sides = [side // size for side, size in zip(video.shape[2:], patch, strict=True)]
    return Grid(*sides) if all(sides) else None
