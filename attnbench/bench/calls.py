"""The call that is timed: ``attnbench.attention`` on fixed tensors, selection, permutation and all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnbench import api
from attnbench.kernels.phases import during


@dataclass(frozen=True)
class Call:
    """A timed call on fixed tensors; ``prepare`` clears what the last one left."""

    run: Callable[[], Tensor]
    prepare: Callable[[], None]
    leaves: tuple[Tensor, ...]


def forward_call(q: Tensor, k: Tensor, v: Tensor, arguments: Mapping[str, Any]) -> Call:
    """Return the forward call that users make.

    Args:
        q: [B, H, N, D].
        k, v: [B, KV heads, N, D].
        arguments: keyword arguments of ``attnbench.attention``.
    """

    def forward() -> Tensor:
        with torch.no_grad():
            return output_of(api.attention(q, k, v, **arguments))

    return Call(forward, lambda: None, ())


def training_call(q: Tensor, k: Tensor, v: Tensor, d_output: Tensor, arguments: Mapping[str, Any]) -> Call:
    """Return the forward and backward call; arguments as of ``forward_call``, and the gradient of the output."""
    leaves = tuple(x.detach().requires_grad_() for x in (q, k, v))

    def both() -> Tensor:
        with during("forward"):
            output = output_of(api.attention(*leaves, **arguments))
        with during("backward"):
            output.backward(d_output)
        return output.detach()

    def clear() -> None:
        for leaf in leaves:
            leaf.grad = None

    return Call(both, clear, leaves)


def output_of(result: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Return what ``attnbench.attention`` gave without log-sum-exp."""
    assert isinstance(result, Tensor)
    return result
