"""How long the cells of a suite take, before the first one is measured."""

from __future__ import annotations

from dataclasses import dataclass

from attnbench.bench.request import Request
from attnbench.bench.sweep.points import Sweep

USUAL_SECONDS = 20.0
"""Seconds of a cell with a process of its own on a GPU. Measured: 15 to 17 in results/h200, with warm caches."""


@dataclass(frozen=True)
class Estimate:
    """How long the calls of a suite's cell take.

    Attributes:
        cells: rows that it comes to.
        usual_s: seconds that they usually take on a GPU.
        most_s: seconds after which they would all have been stopped.
    """

    cells: int
    usual_s: float
    most_s: float

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.cells + other.cells, self.usual_s + other.usual_s, self.most_s + other.most_s)


def estimate(request: Request, cells: int, *, profiled: bool = False) -> Estimate:
    """Return how long the cells of a request take, with the search for the dense baseline.

    Args:
        request: of ``run`` or ``profile``, or of one point of a sweep.
        cells: that it comes to.
        profiled: whether each is profiled afterwards, in another process.
    """
    processes = (2 if profiled else 1) * cells + 1
    return Estimate(cells, processes * USUAL_SECONDS, processes * request.seconds_a_cell)


def estimate_of(sweep: Sweep) -> Estimate:
    """Return how long the points of a sweep take."""
    points = (estimate(point.request, len(point.request.methods)) for point in sweep.points)
    return sum(points, Estimate(0, 0.0, 0.0))
