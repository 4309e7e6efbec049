"""The branch that a method adds to attention in ``finish``, compared with the same branch in float64.

Nothing is known of what ``finish`` computes. What rounding explains is therefore tried: the branch runs once more in
float64 on inputs that are moved by as much as rounding moves them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attnbench.bench import oracle

Branch = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""``finish`` of a method with everything else settled: (q, k, v, output) -> output."""

STAGES = 4.0
"""How many times rounding of the inputs the rounding inside a branch may amount to."""

LARGEST_TOLERANCE = 0.1
"""Where rounding explains more than this, a match would prove nothing."""


@dataclass(frozen=True, slots=True)
class BranchCheck:
    """Errors of a branch, relative L2 of the head that is worst against its tolerance."""

    error: float
    tolerance: float

    @property
    def problem(self) -> str | None:
        """Why it is wrong, or None. NaN never passes."""
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
    generator = torch.Generator().manual_seed(seed)

    def moved(x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=generator).to(x.device, torch.float64)
        return x * (1 + rounding.storage * noise)

    with torch.no_grad():
        exact = branch(*wide)
        other = branch(*(moved(x) for x in wide))
    size = exact.square().sum((-2, -1)).sqrt().clamp(min=1e-150)
    error = (after.double() - exact).square().sum((-2, -1)).sqrt() / size
    noise = (other - exact).square().sum((-2, -1)).sqrt() / size
    sums = rounding.accumulator * q.shape[2] ** 0.5
    tolerance = oracle.SAFETY * (STAGES * noise + rounding.storage + sums)
    ratio = (error / tolerance).nan_to_num(nan=torch.inf)
    worst = int(ratio.argmax())
    return BranchCheck(float(error.flatten()[worst]), float(tolerance.flatten()[worst]))
