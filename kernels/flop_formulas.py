"""FLOP formulas of our operators, for torch's FlopCounterMode.

``torch.utils.flop_counter`` imports Triton, which costs time and reads its settings then, so it is not loaded for this:
formulas wait until it is loaded, or until ``register_flops`` is called. A counter knows the formulas that were
registered before it was made.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from attnbench.kernels.errors import BadInput

_PRODUCTS: dict[str, int] = {"fwd": 2, "fwdbwd": 7}
"""Matrix products a kept pair takes part in: scores and AV; backward scores again, dP, dV, dK and dQ."""


_waiting: list[tuple[str, Callable[..., int], bool]] = []


def flop_formula(operator: str, formula: Callable[..., int], *, raw: bool = False) -> None:
    """Give an operator of the namespace ``attnbench`` a formula.

    Args:
        operator: its name.
        formula: returns floating-point operations, 2 for a multiply-add, from the operator's arguments.
        raw: hand the formula tensors, not only their shapes.
    """
    _waiting.append((operator, formula, raw))
    if "torch.utils.flop_counter" in sys.modules:
        register_flops()


def register_flops() -> None:
    """Teach FlopCounterMode our operators; counters that are made later know them."""
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
