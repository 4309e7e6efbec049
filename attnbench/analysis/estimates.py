"""Figures of sampled queries with the interval that the sample allows; of all queries they are exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attnbench.analysis.call import Estimate

GROUPS = 10
"""Groups of queries that are left out in turn."""
_Z, _T = 1.959964, 2.262157
"""Of a 95 % interval: of the normal distribution, and of Student's with GROUPS - 1 degrees of freedom."""


def of_mean(values: Tensor, tokens: int) -> Estimate:
    """Return the mean of a value that each query has.

    Args:
        values: [n], of the sampled queries.
        tokens: how many there are in all. Where all were looked at, the mean is exact.
    """
    values = values.double()
    mean, n = float(values.mean()), len(values)
    if n < 2 or n >= tokens:
        return Estimate(mean, mean, mean) if n >= tokens else Estimate(mean, -math.inf, math.inf)
    half = _Z * float(values.std()) / math.sqrt(n) * math.sqrt(1 - n / tokens)
    return Estimate(mean, mean - half, mean + half)


def of_statistic(statistic: Callable[[Tensor], float], n: int, tokens: int) -> Estimate:
    """Return a statistic that no query has by itself, with the interval of a jackknife over groups of queries.

    Args:
        statistic: of the queries at some places, int64 below n.
        n: queries looked at.
        tokens: how many there are in all.
    """
    places = torch.arange(n)
    value = statistic(places)
    if n >= tokens:
        return Estimate(value, value, value)
    if n < 2 * GROUPS:
        return Estimate(value, -math.inf, math.inf)
    return of_groups(value, [statistic(places[places % GROUPS != group]) for group in range(GROUPS)], n, tokens)


def of_groups(value: float, without: Sequence[float], n: int, tokens: int) -> Estimate:
    """Return a statistic with the interval of a jackknife, where it is known without each of GROUPS groups of queries.

    Args:
        value: of all n queries.
        without: of the queries that are left without each group.
        n: queries looked at.
        tokens: how many there are in all.
    """
    left = torch.tensor(without, dtype=torch.float64)
    spread = float((left - left.mean()).square().sum()) * (GROUPS - 1) / GROUPS
    half = _T * math.sqrt(spread * max(0.0, 1 - n / tokens))
    return Estimate(value, value - half, value + half)


def gini(values: Tensor) -> float:
    """Return the Gini coefficient of values of at least 0: 0 where all are equal, towards 1 where one has all."""
    ordered = values.double().flatten().sort().values
    total, n = float(ordered.sum()), len(ordered)
    if total <= 0:
        return 0.0
    ranks = torch.arange(1, n + 1, device=ordered.device, dtype=torch.float64)
    return float((2 * ranks - n - 1) @ ordered) / (n * total)
