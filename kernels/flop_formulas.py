"""FLOP formulas of our operators, for torch's FlopCounterMode.

``torch.utils.flop_counter`` imports Triton, which takes time and reads its settings on import. So it is not loaded for
this: formulas are registered when it is loaded, or when ``register_flops`` is called. A counter knows the formulas that
were registered before it was made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from attnbench.kernels.errors import BadInput

_PRODUCTS: dict[str, int] = {"fwd": 2, "fwdbwd": 7}
"""Matrix products of a kept pair: scores and AV forward; scores again, dP, dV, dK and dQ backward."""


_waiting: list[tuple[str, Callable[..., int], bool]] = []


def flop_formula(operator: str, formula: Callable[..., int], *, raw: bool = False) -> None:
    """Register a formula for an operator of the namespace ``attnbench``.

    Args:
        operator: its name.
        formula: returns floating-point operations, 2 for a multiply-add, from the operator's arguments.
        raw: pass the tensors to the formula instead of their shapes.
    """
    _waiting.append((operator, formula, raw))
    if "torch.utils.flop_counter" in sys.modules:
        register_flops()


def register_flops() -> None:
    """Register our operators with FlopCounterMode, for counters that are made afterwards."""
    import torch
    from torch.utils.flop_counter import register_flop_formula

    while _waiting:
        operator, formula, raw = _waiting.pop()
        register: Any = register_flop_formula(getattr(torch.ops.attnbench, operator), get_raw=raw)
        register(formula)


def flops_per_pair(head_dim: int, direction: str = "fwd") -> int:
    """Return the operations of one (query, key) pair of one head: 4·head_dim forward, 14·head_dim with backward.

    Raises:
        BadInput: for a direction that is not "fwd" or "fwdbwd".
    """
    if direction not in _PRODUCTS:
        raise BadInput(f"direction {direction!r} must be fwd or fwdbwd")
    return 2 * head_dim * _PRODUCTS[direction]
