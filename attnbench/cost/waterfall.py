"""The waterfall: from the ideal time at a density to the measured time, with one bar for each loss.

The promise is the dense baseline times the density. Each bar is what a group of phases took, or what the attention
kernel took beyond the promise, split by a model into padding and the rest. What all bars leave over is a bar of its
own, ``unexplained``: no other bar is made by subtracting from the total.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from attnbench.kernels.errors import BadInput

DIFFERENCES = ("softmax", "av")
"""Parts of which an ablated time is what a build takes beyond another: work over such a time is no rate."""


LOSSES: Mapping[str, tuple[str, ...]] = {
    "selection": ("pool", "score", "select"),
    "permute": ("permute", "unpermute", "gather"),
    "index": ("index",),
    "merge": ("merge",),
    "branch": ("branch",),
    "other kernels": ("other",),
    "launch gaps": ("gap",),
}
"""The phases that each loss is the sum of; those of the attention kernel come apart."""

IGNORED = ("qk", "softmax", "av")  # parts of attend

Kind = Literal["measured", "modelled"]


@dataclass(frozen=True, slots=True)
class Span:
    """Milliseconds, and the ends of their interval."""

    ms: float
    lo: float
    hi: float

    @classmethod
    def of(cls, ms: float, lo: float | None = None, hi: float | None = None) -> Span:
        """Return a span; an end that is not known is the value itself."""
        return cls(ms, ms if lo is None else lo, ms if hi is None else hi)

    def __add__(self, other: Span) -> Span:
        return Span(self.ms + other.ms, self.lo + other.lo, self.hi + other.hi)

    def __sub__(self, other: Span) -> Span:
        return Span(self.ms - other.ms, self.lo - other.hi, self.hi - other.lo)

    def times(self, factor: float) -> Span:
        """Return the span times a factor that is not negative."""
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
        dense: the dense baseline.
        ideal: dense × density, the promise.
        bars: the losses in the order they are drawn, without ``unexplained``; the attention kernel's beyond the promise
            are "padding" and "kernel inefficiency", which may be negative where the kernel beats the dense one.
        unexplained: latency minus ideal minus all bars; its interval carries those of all of them.
        latency: what was measured without a profiler.
    """

    dense: Span
    ideal: Span
    bars: tuple[Bar, ...]
    unexplained: Span
    latency: Span

    @property
    def unexplained_share(self) -> float:
        """Size of ``unexplained`` as a share of the latency."""
        return abs(self.unexplained.ms) / self.latency.ms


def build_waterfall(
    latency: Span, dense: Span, density: float, kept_share: float, phases: Mapping[str, Span]
) -> Waterfall:
    """Break a latency down.

    Args:
        latency: of the cell, without a profiler.
        dense: of the dense baseline in the same run.
        density: share of the pairs that are kept.
        kept_share: kept pairs / pairs that the attention kernel computes, at most 1. Padding is what the rest of them
            costs if every computed pair costs the same: a model.
        phases: time by phase, forward and backward added; "other" are kernels outside any phase, "gap" is time in which
            the GPU waited between kernels.

    Raises:
        BadInput: for a phase that no loss is made of, or shares that are not in (0, 1].
    """
    for name, share in (("density", density), ("kept_share", kept_share)):
        if not 0 < share <= 1:
            raise BadInput(f"{name} is {share!r}; it must be above 0 and at most 1")
    known = {"attend", *IGNORED, *(phase for group in LOSSES.values() for phase in group)}
    if unknown := sorted(set(phases) - known):
        raise BadInput(f"no loss is made of the phase {unknown[0]!r}; known are {', '.join(sorted(known))}")
    ideal = dense.times(density)
    losses = {loss: _sum(phases.get(name, ZERO) for name in names) for loss, names in LOSSES.items()}
    attend = phases.get("attend", ZERO)
    padding = attend.times(1 - kept_share)
    inefficiency = attend.times(kept_share) - ideal
    bars = [Bar(name, losses[name], "measured") for name in ("selection", "permute", "index", "merge", "branch")]
    bars.append(Bar("padding", padding, "modelled"))
    bars.append(Bar("kernel inefficiency", inefficiency, "modelled" if kept_share < 1 else "measured"))
    bars += [Bar(name, losses[name], "measured") for name in ("other kernels", "launch gaps")]
    # Padding and inefficiency are two parts of one measured time, so the model's error drops out of their sum.
    explained = _sum([attend, *losses.values()])
    shown = tuple(bar for bar in bars if bar.span != ZERO)
    return Waterfall(dense, ideal, shown, latency - explained, latency)


def _sum(spans: Iterable[Span]) -> Span:
    total = ZERO
    for span in spans:
        total = total + span
    return total
