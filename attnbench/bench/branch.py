"""The branch that a method adds to attention in ``finish``, compared with the same branch in float64.

Nothing is known of what ``finish`` computes. What rounding explains is therefore tried: the branch runs once more in
float64 on inputs that are moved by as much as rounding moves them. Where it attends again, it gets the outputs that the
engine gave in the call: they are compared with float64 attention row by row, as the first output is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnbench.bench import oracle
from attnbench.kernels.errors import BadInput
from attnbench.kernels.plan import Plan
from attnbench.kernels.witness import Attended
from attnbench.methods import BranchCall, Call, Finished, Method
from attnbench.methods.per_head import map_tensors

Move = Callable[[Tensor], Tensor]
"""What is done to a tensor that an engine gave before a branch sees it."""


@dataclass(frozen=True, eq=False)
class Branch:
    """``finish`` of a method with everything settled but the tensors: (q, k, v, output) -> output.

    Attributes:
        method: has ``finish``.
        settings: resolved.
        call: of the method.
        plan: what the call ran.
        scale: factor of the scores.
        lse: what the engine gave for the plan, or None.
        again: what it gave where ``finish`` attended again, in that order.
    """

    method: Method
    settings: Any
    call: Call
    plan: Plan
    scale: float
    lse: Tensor | None
    again: tuple[Attended, ...]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, output: Tensor, *, move: Move | None = None) -> Tensor:
        """Return the output of ``finish``.

        Args:
            q, k, v, output: [B, H or KV heads, N, D], whose dtype is that of all the branch computes.
            move: done to the other tensors of an engine; by default they are widened to that dtype.

        Raises:
            BadInput: if it attends over other pairs than in the call.
        """
        assert self.method.finish is not None
        move, left = move or (lambda x: x.to(q.dtype)), iter(self.again)

        def attend(plan: Plan) -> tuple[Tensor, Tensor]:
            seen = next(left, None)
            if seen is None or seen.lse is None or not _same_pairs(plan, seen.plan):
                raise BadInput(
                    "finish attends over other pairs when it runs again; make such plans in plan, and keep them"
                )
            return move(seen.output), move(seen.lse)

        call = self.call
        fields = (call.layout, call.layer, call.step, call.state, call.params, v if self.method.needs_v else None, None)
        lse = None if self.lse is None else move(self.lse)
        found = self.method.finish(
            self.settings, BranchCall(*fields, self.plan, self.scale, lse, attend), q, k, v, output
        )
        return found.output if isinstance(found, Finished) else found

    def with_state(self, move: Move) -> Branch:
        """Return the branch with another state, whose numbers are float64: those of its own, moved."""
        state = map_tensors(self.call.state, lambda x: move(x.double()) if x.is_floating_point() else x)
        return replace(self, call=replace(self.call, state=state))


def _same_pairs(plan: Plan, other: Plan) -> bool:
    mine, theirs = plan.tensors, other.tensors
    return (
        plan.pattern.rule == other.pattern.rule
        and len(mine) == len(theirs)
        and all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))
    )


STAGES = 4.0
"""How many times rounding of the inputs the rounding inside a branch may amount to."""

LARGEST_TOLERANCE = 0.1
"""Where rounding explains more than this, a match would prove nothing."""


@dataclass(frozen=True, slots=True)
class BranchCheck:
    """Errors of a branch, relative L2 of the head that is worst against its tolerance.

    Attributes:
        error, tolerance: of that head.
        blind: whether the branch gave the same output, to the last bit, for other inputs and another state.
        runs: how many times it ran.
    """

    error: float
    tolerance: float
    blind: bool = False
    runs: int = 2

    @property
    def problem(self) -> str | None:
        """Why it is wrong, or None. NaN never passes."""
        if self.blind:
            return "finish gives the same output for other inputs: it returns what it made before"
        if self.error <= self.tolerance:
            return None
        return (
            f"finish differs from itself in float64 by {self.error:.2g} (relative L2); rounding explains "
            f"{self.tolerance:.2g}"
        )

    @property
    def vacuous(self) -> str | None:
        """Why a match proves nothing, or None."""
        if self.tolerance <= LARGEST_TOLERANCE:
            return None
        return f"finish cannot be verified: rounding explains errors of {self.tolerance:.2g} (relative L2)"


def check_branch(
    branch: Branch, q: Tensor, k: Tensor, v: Tensor, before: Tensor, after: Tensor, seed: int
) -> BranchCheck:
    """Compare what a branch made of an output with what it makes of it in float64.

    Args:
        branch: to compare.
        q: [B, H, N, D]. k, v: [B, KV heads, N, D].
        before: attention's output [B, H, N, D], as the engine gave it.
        after: the branch's, [B, H, N, D].
        seed: of the random moves.
    """
    rounding = oracle.Rounding.of(q.dtype)
    wide = tuple(x.double() for x in (q, k, v, before))
    generator = torch.Generator(q.device).manual_seed(seed)

    def moved(x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, device=q.device)
        return x * (1 + rounding.storage * noise.double())

    with torch.no_grad():
        exact = branch(*wide)
        other = branch(*(moved(x) for x in wide), move=lambda x: moved(x.double()))
        blind, runs = bool(exact.any()) and torch.equal(exact, other), 2
        if blind and branch.call.state is not None:  # a step may repeat what its state holds, and look at nothing else
            blind, runs = torch.equal(exact, branch.with_state(moved)(*wide)), 3
    size = exact.square().sum((-2, -1)).sqrt().clamp(min=1e-150)
    error = (after.double() - exact).square().sum((-2, -1)).sqrt() / size
    noise = (other - exact).square().sum((-2, -1)).sqrt() / size
    sums = rounding.accumulator * q.shape[2] ** 0.5
    tolerance = oracle.SAFETY * (STAGES * noise + rounding.storage + sums)
    ratio = (error / tolerance).nan_to_num(nan=torch.inf)
    worst = int(ratio.argmax())
    return BranchCheck(float(error.flatten()[worst]), float(tolerance.flatten()[worst]), blind, runs)
