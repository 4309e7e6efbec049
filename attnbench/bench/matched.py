"""Settings at which a method keeps a given share of the pairs, found by bisection on the inputs of a cell.

A method's density setting has a value for every density that may be asked for, but what a plan keeps may depend on q
and k. So what is asked of the setting is moved until the plans keep what was asked of the run.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

from attnbench.bench.jobs import Job
from attnbench.bench.sweep.knobs import turn_method
from attnbench.kernels.grid import Layout
from attnbench.methods import make_settings

WITHIN = 0.03
"""How far a density may be from the one asked for, as a share of it, to count as matched."""

CLOSE = 0.005
"""From here on, nothing closer is looked for."""

MOST_STEPS = 24


def match_density(job: Job, layout: Layout, target: float, density_of: Callable[[Job], float]) -> Job:
    """Return the job with the settings whose plans come nearest to a density.

    Args:
        job: its method has a density setting, and ``job.given`` leaves it free.
        layout: of the cell.
        target: the density, in (0, 1].
        density_of: plans a job on the cell's inputs, and returns what it keeps.
    """
    tried: dict[object, float] = {}

    def at(asked: float) -> tuple[Job, float]:
        turned = turn_method(job.method, json.loads(job.given), layout, asked)
        settings = job.method.resolve(make_settings(job.method, turned), layout)
        moved = dataclasses.replace(job, settings=settings)
        if settings not in tried:
            tried[settings] = density_of(moved)
        return moved, tried[settings]

    low, high, asked = 0.0, math.inf, target  # what is asked for at most is not known to be enough
    best, nearest = job, math.inf
    for _ in range(MOST_STEPS):
        moved, density = at(asked)
        if distance(density, target) < nearest:
            best, nearest = moved, distance(density, target)
        low, high = (asked, high) if density < target else (low, asked)
        if nearest <= CLOSE or low == 1.0:
            break
        asked = 1.0 if high == math.inf else (low + high) / 2
    return best


def distance(density: float, target: float) -> float:
    """Return how far a density is from a target, as a share of it."""
    return abs(density / target - 1)
