"""Runs that were measured in turns, call by call: what a round of one says beside the same round of the other.

What the machine did to both within these seconds cancels, whether or not a dense baseline was slowed down as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

from attnbench.results.estimates import Estimate, difference, middle
from attnbench.results.layers import Mean
from attnbench.results.load import Results
from attnbench.results.noise import NoiseModel

Shared = Mapping[str, str]
"""By run_id, what a run shares with those that it took turns with."""


def shared_by(*tables: Results) -> dict[str, str]:
    """Return what the runs of tables share; a run alone is left out."""
    return {header.run_id: header.in_turns for each in tables for header in each.headers if header.in_turns}


def matched(a: Sequence[Mean], b: Sequence[Mean], shared: Shared) -> list[tuple[Mean, Mean]]:
    """Return the pairs of runs that took turns, in the order of A, if each run that both sides have has a partner."""
    theirs = {shared.get(mean.first.run_id): mean for mean in b}
    found = [
        (mean, theirs[token]) for mean in a if (token := shared.get(mean.first.run_id)) is not None and token in theirs
    ]
    return found if len(found) == len(a) == len(b) else []


def log_ratio(a: Mean, b: Mean) -> Estimate | None:
    """Return the log of how many times slower B is, from the rounds that both have; None without any."""
    rounds = sorted(a.rounds.keys() & b.rounds.keys())
    logs = [math.log(b.rounds[number][0] / a.rounds[number][0]) for number in rounds]
    return middle(logs) if logs else None


def between_pairs(cells: Sequence[Sequence[Estimate]], noise: NoiseModel) -> Estimate:
    """Return what pairs of runs differ by beyond their rounds, as the error of an estimate of 0.

    It is what is known of the device, unless these pairs differ by more than that and their rounds explain: where that
    has a probability of less than 5 %, it is what these pairs show.

    Args:
        cells: of each cell, the log ratio in each pair of runs.
        noise: of the device.
    """
    known = Estimate(0.0, noise.pair_sd, max(noise.pairs - 1, 1) if noise.pairs else math.inf)
    seen = within = 0.0
    freedom = 0
    for pairs in cells:
        if len(pairs) > 1 and all(math.isfinite(each.error) for each in pairs):
            mean = math.fsum(each.value for each in pairs) / len(pairs)
            seen += math.fsum((each.value - mean) ** 2 for each in pairs)
            within += math.fsum(each.error**2 for each in pairs) * (len(pairs) - 1) / len(pairs)
            freedom += len(pairs) - 1
    if freedom and seen > _chance(freedom) * (freedom * known.error**2 + within):
        return Estimate(0.0, math.sqrt((seen - within) / freedom), freedom)
    return known


def _chance(freedom: int) -> float:
    """Return what a mean square of that freedom exceeds in 5 % of cases, in units of what it is expected to be.

    Source: E. B. Wilson and M. M. Hilferty, The distribution of chi-square, PNAS 17, 1931.
    """
    narrow = 2 / (9 * freedom)
    return (1 - narrow + _RARE * math.sqrt(narrow)) ** 3


_RARE = NormalDist().inv_cdf(0.95)


def mean_ratio(pairs: Sequence[Estimate], between: Estimate) -> Estimate:
    """Return the mean of the log ratios of pairs of runs, with what pairs differ by in its error."""
    count = len(pairs)
    within = math.sqrt(math.fsum(each.error**2 for each in pairs)) / count
    freedom = math.fsum(each.freedom for each in pairs)
    found = Estimate(math.fsum(each.value for each in pairs) / count, within, freedom)
    rest = Estimate(0.0, between.error / math.sqrt(count), between.freedom)
    return difference(Estimate(0.0, 0.0, math.inf), found, rest)
