"""Statistics of a patched model: calls, steps and densities by layer."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnbench.kernels.grid import Grid
from attnbench.models.families.family import Place
from attnbench.models.replacement import Replacement


@dataclass(frozen=True, slots=True)
class LayerStats:
    """What one layer has done since the model was patched.

    Attributes:
        layer: its index.
        calls: calls of the method.
        own_calls: calls of the model's own attention, in dense steps or as a dense layer.
        steps: denoising steps in which the method ran.
        density: density of the last plan; None unless densities are recorded and the method ran.
        mean_density: mean density of the plans; None under the same condition.
    """

    layer: int
    calls: int
    own_calls: int
    steps: int
    density: float | None
    mean_density: float | None


@dataclass(slots=True)
class Tally:
    """The running counts of one layer."""

    calls: int = 0
    own_calls: int = 0
    steps: int = 0
    last_step: int = 0
    densities: list[float] = field(default_factory=list)

    def of(self, layer: int) -> LayerStats:
        """Return the current counts."""
        seen = self.densities
        mean = sum(seen) / len(seen) if seen else None
        return LayerStats(layer, self.calls, self.own_calls, self.steps, seen[-1] if seen else None, mean)


class Stats:
    """A live view of a patched model, which stays readable after the model is restored."""

    def __init__(self, replacement: Replacement, tallies: tuple[Tally, ...]) -> None:
        self._replacement, self._tallies = replacement, tallies

    @property
    def steps(self) -> int:
        """Number of denoising steps seen, over all clips."""
        return self._replacement.clock.steps

    @property
    def step(self) -> int | None:
        """Index of the current denoising step in its clip; None before the first forward call."""
        return self._replacement.clock.step

    @property
    def grid(self) -> Grid | None:
        """Token grid of the last forward call; None before the first."""
        return self._replacement.grid

    @property
    def layers(self) -> tuple[LayerStats, ...]:
        """The counts of every layer. Those of a pipeline with two transformers are added up."""
        return tuple(tally.of(layer) for layer, tally in enumerate(self._tallies))

    @property
    def density(self) -> float | None:
        """Mean density of all plans; None unless densities are recorded and the method ran."""
        seen = [density for tally in self._tallies for density in tally.densities]
        return sum(seen) / len(seen) if seen else None

    def count(self, place: Place, *, own: bool) -> None:
        """Count a call at ``place``, of the method or of the model's own attention."""
        tally = self._tallies[place.layer]
        if own:
            tally.own_calls += 1
            return
        tally.calls += 1
        if tally.last_step != self.steps:
            tally.steps, tally.last_step = tally.steps + 1, self.steps

    def __repr__(self) -> str:
        calls, own = (sum(getattr(t, name) for t in self._tallies) for name in ("calls", "own_calls"))
        return f"Stats(steps={self.steps}, layers={len(self._tallies)}, calls={calls}, own_calls={own})"
