"""What rows report of a plan: recounted from its pattern, whatever the method says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from math import prod
from operator import index
from statistics import fmean
from typing import Any

from torch.overrides import TorchFunctionMode

from attnbench.bench.trial import Incorrect, PlanFacts
from attnbench.kernels.engines import get_engine
from attnbench.kernels.flop_formulas import flops_per_pair
from attnbench.kernels.frame_shares import frame_shares
from attnbench.kernels.plan import Plan, plain

MOST_SELECTION = 100
"""How many times the operations of full attention a selection may state: more cannot be meant."""


def facts_of(plan: Plan, engine: str, head_dim: int, counted: int, branch: int = 0) -> PlanFacts:
    """Count the pairs of a plan, and take the larger of the operations that it states and that were counted.

    Args:
        plan: of a call.
        engine: that runs it.
        head_dim: channels of a head.
        counted: operations of matrix products that were seen while the method planned.
        branch: those of what it adds to attention.

    Raises:
        Incorrect: for stated operations that no selection or branch can have.
    """
    recounted = plain(plan)
    most = MOST_SELECTION * flops_per_pair(head_dim, "fwd") * plan.batch * plan.heads * plan.layout.tokens**2
    return PlanFacts(
        recounted.density, recounted.heads, recounted.pairs, recounted.nbytes,
        max(_stated("selection_flops", plan.selection_flops, most), counted),
        get_engine(engine).executed_pairs(recounted), max(_stated("branch_flops", plan.branch_flops, most), branch),
        recounted.empty_rows,
    )  # fmt: skip


def thousandths_by_frame(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """Return what a plan keeps of each two frames, in thousandths, query frame by key frame; empty if not known."""
    shares = frame_shares(plan)
    return () if shares is None else tuple(tuple(line) for line in (shares * 1000).round().int().tolist())


def _stated(name: str, value: object, most: int) -> int:
    try:
        stated = index(value)  # type: ignore[arg-type]  # which may be anything where nobody checks types
    except TypeError:
        stated = -1
    if not 0 <= stated <= most:
        raise Incorrect(
            f"the plan states {name} {value!r}; it must be a whole number from 0 to {most:,}, "
            f"{MOST_SELECTION} times full attention"
        )
    return stated


def mean_of(facts: Sequence[PlanFacts]) -> PlanFacts:
    """Return the mean of what several plans keep; counts are rounded."""
    first = facts[0]
    if all(each == first for each in facts):
        return first
    density, *counts = (fmean(column) for column in zip(*(astuple(each) for each in facts), strict=True))
    return PlanFacts(density, *(round(count) for count in counts))


class Products(TorchFunctionMode):
    """Counts the operations of matrix products inside, 2 per multiply-add.

    Torch's own counter, and any other that sees operators, loads what takes seconds. What our kernels select is not
    seen; they state their operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _FIRST_FACTOR and len(args) > _FIRST_FACTOR[name]:
            self.flops += 2 * result.numel() * args[_FIRST_FACTOR[name]].shape[-1]
        elif name == "einsum" and isinstance(args[0], str):
            self.flops += _einsum_flops(args[0], args[1:] if len(args) > 2 else args[1])
        return result


_FIRST_FACTOR = {
    "matmul": 0, "__matmul__": 0, "mm": 0, "bmm": 0, "mv": 0, "linear": 0, "addmm": 1, "baddbmm": 1,
}  # fmt: skip
"""Where each product's left factor stands among its arguments."""


def _einsum_flops(equation: str, factors: Sequence[Any]) -> int:
    """Return 2 for every combination of indices; 0 for equations with an ellipsis, and of one factor."""
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if "." in equation or len(terms) < 2 or len(terms) != len(factors):
        return 0
    sizes: dict[str, int] = {
        letter: size
        for term, factor in zip(terms, factors, strict=True)
        for letter, size in zip(term, factor.shape, strict=True)
    }
    return 2 * prod(sizes.values())
