"""The waterfall: from the ideal time at a density to the measured time, with one bar for each loss.

The ideal time is the dense baseline times the density. Each bar is the time of a group of phases, or the time of the
attention kernel beyond the ideal, which a model splits into padding and the rest. What all bars leave over is a bar of
its own, ``unexplained``. No other bar is made by subtracting from the total.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from attnbench.kernels.errors import BadInput

DIFFERENCES = ("softmax", "av")
"""Parts whose ablated time is a difference of two builds. Work divided by such a time is not a rate."""


LOSSES: Mapping[str, tuple[str, ...]] = {
    "selection": ("pool", "score", "select"),
    "permute": ("permute", "unpermute", "gather"),
    "index": ("index",),
    "merge": ("merge",),
    "branch": ("branch",),
    "communicate": ("communicate",),
    "other kernels": ("other",),
    "launch gaps": ("gap",),
}
"""The phases whose sum is each loss. The attention kernel is handled separately."""

IGNORED = ("qk", "softmax", "av")  # parts of attend

Kind = Literal["measured", "modelled"]


@dataclass(frozen=True, slots=True)
class Span:
    """A time in milliseconds, with the ends of its interval."""

    ms: float
    lo: float
    hi: float

    @classmethod
    def of(cls, ms: float, lo: float | None = None, hi: float | None = None) -> Span:
        """Return a span. An end that is not known is set to the value itself."""
        return cls(ms, ms if lo is None else lo, ms if hi is None else hi)

    def __add__(self, other: Span) -> Span:
        return Span(self.ms + other.ms, self.lo + other.lo, self.hi + other.hi)

    def __sub__(self, other: Span) -> Span:
        return Span(self.ms - other.ms, self.lo - other.hi, self.hi - other.lo)

    def times(self, factor: float) -> Span:
        """Return the span multiplied by a factor that is not negative."""
        return Span(self.ms * factor, self.lo * factor, self.hi * factor)


ZERO = Span(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Bar:
    """One loss: its time, and whether that was measured or modelled."""

    name: str
    span: Span
    kind: Kind


@dataclass(frozen=True, slots=True)
class Waterfall:
    """Where the time of a cell goes.

    Attributes:
        dense: time of the dense baseline.
        ideal: dense × density.
        bars: the losses in the order in which they are drawn, without ``unexplained``. Those of the attention kernel
            are "padding" and "kernel inefficiency", which may be negative if the kernel is faster than the dense one.
        unexplained: latency minus ideal minus all bars. Its interval includes those of all of them.
        latency: the latency that was measured without a profiler.
    """

    dense: Span
    ideal: Span
    bars: tuple[Bar, ...]
    unexplained: Span
    latency: Span

    @property
    def unexplained_share(self) -> float:
        """The absolute value of ``unexplained`` as a share of the latency."""
        return abs(self.unexplained.ms) / self.latency.ms


def build_waterfall(
    latency: Span, dense: Span, density: float, kept_share: float, phases: Mapping[str, Span]
) -> Waterfall:
    """Split a latency into the bars of a waterfall.

    Args:
        latency: latency of the cell, without a profiler.
        dense: latency of the dense baseline in the same run.
        density: share of the pairs that are kept.
        kept_share: kept pairs / pairs that the attention kernel computes, at most 1. Padding is the cost of the other
            pairs under a model in which every computed pair costs the same.
        phases: time by phase, forward plus backward. "other" is kernels outside any phase, "gap" is time in which the
            GPU waits between kernels.

    Raises:
        BadInput: for a phase that belongs to no loss, or shares that are not in (0, 1].
    """
    for name, share in (("density", density), ("kept_share", kept_share)):
        if not 0 < share <= 1:
            raise BadInput(f"{name} is {share!r}; it must be above 0 and at most 1")
    known = {"attend", *IGNORED, *(phase for group in LOSSES.values() for phase in group)}
    if unknown := sorted(set(phases) - known):
        raise BadInput(f"no loss contains the phase {unknown[0]!r}; known are {', '.join(sorted(known))}")
    ideal = dense.times(density)
    losses = {loss: _sum(phases.get(name, ZERO) for name in names) for loss, names in LOSSES.items()}
    attend = phases.get("attend", ZERO)
    padding = attend.times(1 - kept_share)
    inefficiency = attend.times(kept_share) - ideal
    first = ("selection", "permute", "index", "merge", "branch", "communicate")
    bars = [Bar(name, losses[name], "measured") for name in first]
    bars.append(Bar("padding", padding, "modelled"))
    bars.append(Bar("kernel inefficiency", inefficiency, "modelled" if kept_share < 1 else "measured"))
    bars += [Bar(name, losses[name], "measured") for name in ("other kernels", "launch gaps")]
    # Padding and inefficiency are parts of one measured time, so the error of the model cancels in their sum.
    explained = _sum([attend, *losses.values()])
    shown = tuple(bar for bar in bars if bar.span != ZERO)
    return Waterfall(dense, ideal, shown, latency - explained, latency)


def _sum(spans: Iterable[Span]) -> Span:
    total = ZERO
    for span in spans:
        total = total + span
    return total
