"""The three FLOP counts of a cell: dense, algorithmic and executed.

A multiply-add counts as 2. Only matrix products are counted: no softmax, scaling, masks, sorting, gathers and merges.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from attnbench.cost.flops.wan import ForwardFlops
from attnbench.kernels.flop_formulas import flops_per_pair
from attnbench.kernels.plan import Plan


@dataclass(frozen=True, slots=True)
class Counts:
    """Floating-point operations of one attention call.

    Attributes:
        dense: operations of full attention on the same shape.
        algorithmic: operations of the kept pairs only.
        selection: operations of choosing the kept pairs (pooling and scores), as the plan states them.
        executed: operations that the engine runs: the pairs of whole tiles, including padding, the selection, and what
            the method adds.
        branch: operations of what the method adds to attention, in its passes.
    """

    dense: int
    algorithmic: int
    selection: int
    executed: int
    branch: int = 0

    def times(self, factor: int) -> Counts:
        """Return the counts of ``factor`` such calls."""
        return Counts(*(count * factor for count in astuple(self)))


def attention_counts(
    *,
    head_dim: int,
    dense_pairs: int,
    pairs: int,
    executed_pairs: int,
    selection_flops: int,
    branch_flops: int = 0,
    direction: str = "fwd",
) -> Counts:
    """Return the counts of a call from its numbers of pairs, each summed over batch items and heads.

    The selection counts once in either direction, because it has no backward pass. What a method adds counts once
    forward, and twice more backward: every product has two gradients.

    Args:
        head_dim: channels per head.
        dense_pairs: B·H·N².
        pairs: pairs that the plan keeps.
        executed_pairs: pairs that the engine computes, including those that it discards.
        selection_flops: operations that the plan states for its selection.
        branch_flops: those of what the method adds, forward.
        direction: "fwd" or "fwdbwd".

    Raises:
        BadInput: for another direction.
    """
    each = flops_per_pair(head_dim, direction)
    branch = branch_flops * (1 if direction == "fwd" else 3)
    executed = each * executed_pairs + selection_flops + branch
    return Counts(each * dense_pairs, each * pairs, selection_flops, executed, branch)


def counts_of(plan: Plan, *, head_dim: int, executed_pairs: int, direction: str = "fwd") -> Counts:
    """Return the counts of running a plan on an engine that computes ``executed_pairs`` for it.

    Raises:
        BadInput: for a direction that is not "fwd" or "fwdbwd".
    """
    return attention_counts(
        head_dim=head_dim,
        dense_pairs=plan.batch * plan.heads * plan.layout.tokens**2,
        pairs=plan.pairs,
        executed_pairs=executed_pairs,
        selection_flops=plan.selection_flops,
        branch_flops=plan.branch_flops,
        direction=direction,
    )


@dataclass(frozen=True, slots=True)
class CellFlops:
    """The counts of one cell over the batch and all heads, as if every head kept as much as the first one.

    Attributes:
        method: its name.
        settings: canonical JSON of its settings.
        layer: the layer it is planned for.
        engine: the engine whose tiles ``counts.executed`` counts.
        density: density of the first head.
        pairs: kept pairs.
        counts: floating-point operations.
    """

    method: str
    settings: str
    layer: int
    engine: str
    density: float
    pairs: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class PassFlops:
    """One forward pass with a method's self-attention, computed from the mean over the layers that were counted.

    Attributes:
        method: its name.
        layers: the layers counted, each standing for its share of the model's.
        density: the mean over these layers.
        flops: operations of the pass. ``self_pairs`` holds kept pairs and selection.
    """

    method: str
    layers: tuple[int, ...]
    density: float
    flops: ForwardFlops
