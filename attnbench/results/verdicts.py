"""What a difference between two measurements comes to, and where the machine is too busy for a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from attnbench.results.estimates import LEVEL, Estimate

Change = Literal[
    "broken",
    "only in A",
    "not comparable",
    "slower",
    "worse",
    "other engine",
    "unclear",
    "faster",
    "same",
    "skipped",
    "only in B",
]

_SHOWN_SAME = 0.9
"""How often an unchanged method is to be called the same with as many runs as are said to be needed."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How many times slower B is than A, as a logarithm, and what its error is made of.

    Attributes:
        found: the difference, with its whole error.
        between: the part of the error that is between runs, which more rounds do not make smaller.
        run_sd: by how much one run of the same code differs from the next.
        drift: the part of the error that comes from a change of the machine's speed between A and B.
        machine: what shows that change, in words.
        busy: who says that the machine was used by others, as "B"; empty if nobody does.
    """

    found: Estimate
    between: float
    run_sd: float
    drift: float = 0.0
    machine: str = ""
    busy: str = ""


def judge(of: Difference, threshold: float, margin: float, *, clear: bool) -> tuple[Change, str]:
    """Return what became of a method by its speed, and why.

    Args:
        of: how much slower B is.
        threshold: ratio less 1 from which a change matters.
        margin: ratio less 1 within which methods are the same.
        clear: whether the difference is significant among all that were judged.
    """
    found = of.found
    lo, hi = found.interval()
    if clear and abs(found.value) > math.log1p(threshold):
        return ("slower" if found.value > 0 else "faster"), f"significant, and more than {threshold:.0%}"
    if -math.log1p(margin) <= lo and hi <= math.log1p(margin):
        return "same", f"within {margin:.0%}" + (f"; the change is below {threshold:.0%}" if clear else "")
    if not math.isfinite(found.error):
        return "unclear", "a single sample says nothing about the noise"
    if busy := _too_busy(of, margin):
        return "unclear", f"machine too busy: {busy}"
    return "unclear", f"the interval reaches beyond {margin:.0%}, and no change is significant: take more rounds"


def _too_busy(of: Difference, margin: float) -> str:
    """Say why more rounds on this machine would not help; "" if they may."""
    if of.busy:
        return f"others used it during {of.busy} (flag busy-machine)"
    if of.drift > 0 and of.drift >= of.found.error / math.sqrt(2):
        return of.machine
    if NormalDist().inv_cdf((1 + LEVEL) / 2) * of.between <= math.log1p(margin):
        return ""
    return (
        f"runs of the same code differ by {of.run_sd:.1%}, so it takes about {runs_needed(of.run_sd, margin)} runs "
        "of each"
    )


def runs_needed(run_sd: float, margin: float) -> int:
    """Return how many runs of each version it takes until an unchanged method is called the same in nine of ten cases.

    Args:
        run_sd: standard deviation between runs of the logarithm that is judged.
        margin: ratio less 1 within which methods are the same.
    """
    normal = NormalDist()
    reach = normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf((1 + _SHOWN_SAME) / 2)
    return math.ceil(2 * (reach * run_sd / math.log1p(margin)) ** 2)
