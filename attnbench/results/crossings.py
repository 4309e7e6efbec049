"""Where a curve of speed-ups passes 1, and how sure that place is.

Between two measured points the logarithm of the speed-up is taken as linear in the logarithm of x (tokens or density).
Nothing is said beyond the points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from attnbench.kernels.errors import BadInput
from attnbench.results.bootstrap import TAIL, ends

Outcome = Literal["crosses", "faster", "slower", "several", "none"]
Ends = Literal["bootstrap95", "band"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Where a curve passes 1.

    Attributes:
        outcome: "crosses" once; "faster" or "slower" at every point; "several" crossings; "none": no point at all.
        at: x of the crossing; None unless there is exactly one.
        lo, hi: interval of the crossing, or of the first and the last of several; None where it reaches beyond the
            measured points, and where nothing crosses.
        faster: on which side of ``at`` the method is the faster one.
        crossings: all of them, rising.
        interval: what ``lo`` and ``hi`` are: "bootstrap95", 95 % of resampled curves; "band", where a point has too few
            samples to resample: the crossings of the curves through the lower and upper ends of all points' intervals.
    """

    outcome: Outcome
    at: float | None = None
    lo: float | None = None
    hi: float | None = None
    faster: Literal["above", "below"] | None = None
    crossings: tuple[float, ...] = ()
    interval: Ends | None = None


def crossings(x: Sequence[float] | Floats, speedup: Sequence[float] | Floats) -> tuple[float, ...]:
    """Return every x at which ``speedup`` passes 1, linear in logarithms between neighbours; x must not fall.

    Raises:
        BadInput: for values that are not above 0, or sequences of different length.
    """
    if len(x) != len(speedup):
        raise BadInput(f"{len(x)} values of x and {len(speedup)} speed-ups; there must be as many of each")
    given = np.asarray([*x, *speedup], dtype=np.float64)
    if not (np.isfinite(given).all() and (given > 0).all()):
        raise BadInput(f"x {list(x)} and speed-up {list(speedup)} must be finite numbers above 0")
    return tuple(_crossings(np.log(np.asarray(x, dtype=np.float64)), np.log(np.asarray(speedup, dtype=np.float64))))


def break_even(x: Floats, value: Floats, draws: Floats, kind: Ends) -> BreakEven:
    """Find where a curve passes 1.

    Args:
        x: rising, [P].
        value: log speed-ups, [P].
        draws: log speed-ups as they might have been, [R, P].
        kind: "bootstrap95" takes 95 % of the draws for the interval, "band" all of them.
    """
    if not len(x):
        return BreakEven("none")
    log_x = np.log(x)
    found = _crossings(log_x, value)
    if not found:
        return BreakEven("faster" if value[0] > 0 else "slower")
    faster: Literal["above", "below"] | None = None
    if (value[0] > 0) != (value[-1] > 0):
        faster = "above" if value[-1] > 0 else "below"
    passed = [pair for draw in draws if (pair := _first_last(log_x, draw, faster)) is not None]
    tail = 0 if kind == "band" else TAIL
    lo = ends([first for first, _ in passed], tail)[0] if passed else -math.inf
    hi = ends([last for _, last in passed], tail)[1] if passed else math.inf
    return BreakEven(
        "crosses" if len(found) == 1 else "several",
        found[0] if len(found) == 1 else None,
        math.exp(lo) if math.isfinite(lo) else None,
        math.exp(hi) if math.isfinite(hi) else None,
        faster,
        tuple(found),
        kind,
    )


def _crossings(log_x: Floats, log_speedup: Floats) -> list[float]:
    above = log_speedup > 0
    places = np.flatnonzero(above[1:] != above[:-1])
    share = -log_speedup[places] / (log_speedup[places + 1] - log_speedup[places])
    inside = np.exp(log_x[places] + share * (log_x[places + 1] - log_x[places]))
    return [float(place) for place in inside]


def _first_last(log_x: Floats, draw: Floats, faster: str | None) -> tuple[float, float] | None:
    """Return log x of the first and last crossing; infinite where the curve lies on one side, None if unknown which."""
    found = _crossings(log_x, draw)
    if found:
        return math.log(found[0]), math.log(found[-1])
    if faster is None:
        return None
    end = -math.inf if (draw[0] > 0) == (faster == "above") else math.inf
    return end, end
