"""What else can stand in the place of a model's self-attention: something that writes down q, k and v, and nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attnbench.api import attention
from attnbench.models.families.family import Place, Qkv
from attnbench.models.replacement import Replacement


def capture_qkv(model: Any, inputs: Mapping[str, Tensor]) -> list[Qkv]:
    """Return q, k, v of every layer's self-attention in one forward call of a transformer.

    Each is [B, heads, N, head_dim], rotated, as methods see it. All those of the 1.3B model at 21x30x52 take 9 GB in
    bfloat16.

    Raises:
        Unsupported: for another model.
    """
    found: list[Qkv] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
        found.append((q, k, v))
        output: Tensor = attention(q, k, v, method="full", grid=place.grid, text=place.text)
        return output

    with torch.no_grad(), Replacement(model, attend):
        model(**inputs, return_dict=False)
    return found


def pass_through(q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
    """Return v in place of attention; its gradient goes to q, k and v alike, so that nothing before them is skipped."""
    output: Tensor = _PassThrough.apply(q, k, v)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return output


class _PassThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return v.view_as(v)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        return gradient, gradient, gradient
