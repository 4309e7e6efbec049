"""How well comparisons tell a change from noise: runs without a change, and with delays of known size, judged in pairs.

Runs without a change give false alarms, how often intervals hold the truth, and the noise between runs. Runs whose
calls were made slower on purpose give how often that is found. Each pair is judged by the noise of all other runs,
never by its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations, product
from typing import Any

import numpy as np

from attnbench.kernels.errors import BadInput
from attnbench.results.bootstrap import RESAMPLES
from attnbench.results.compare import Comparison, compare_tables
from attnbench.results.estimates import Estimate
from attnbench.results.layers import means_of
from attnbench.results.load import Results
from attnbench.results.noise import NoiseModel, between_runs, uncancelled
from attnbench.results.pairs import DENSE

LEAST_RUNS = 4
"""Two to compare, and two more that say how much runs differ."""

_SEED = 20243


@dataclass(frozen=True, slots=True)
class CellJudged:
    """What a comparison said of one method over its layers.

    Attributes:
        method: its name.
        change: slower, faster, same or unclear.
        interval: of how many times slower B is than A.
    """

    method: str
    change: str
    interval: tuple[float, float]

    @property
    def holds_truth(self) -> bool:
        """Whether the interval holds 1, which is the truth where nothing changed."""
        return self.interval[0] <= 1 <= self.interval[1]


@dataclass(frozen=True, slots=True)
class Judged:
    """One comparison: the methods that were judged, and its exit code."""

    cells: tuple[CellJudged, ...]
    exit_code: int


Judge = Callable[[Results, Results, NoiseModel], Judged]


@dataclass(frozen=True, slots=True)
class Share:
    """How often something happened: ``count`` times in ``of``, and the 95 % interval of the share.

    Whole runs are resampled, since all pairs that share a run share its noise. Where it happened never or always that
    says nothing; then the interval is the exact binomial one of as many cells as there are pairs without a common run.
    """

    count: int
    of: int
    lo: float
    hi: float

    @property
    def value(self) -> float:
        """The share; NaN of nothing."""
        return self.count / self.of if self.of else math.nan


@dataclass(frozen=True, slots=True)
class Delayed:
    """What comparisons said of methods that a delay had made slower."""

    delay: float
    runs: int
    slower: Share
    unclear: Share
    failed: Share


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a calibration found.

    Attributes:
        model: the noise between runs, of all runs without a change.
        runs: without a change.
        slower, faster: of methods in comparisons of those, called so: false alarms.
        unclear: of the same methods.
        covered: of their intervals, that hold 1.
        failed: of whole comparisons, with exit code 1.
        undecided: of whole comparisons, with exit code 3.
        delayed: by the size of the delay.
        pairs: of runs that a gate took on average; 0 where single runs were compared.
    """

    model: NoiseModel
    runs: int
    slower: Share
    faster: Share
    unclear: Share
    covered: Share
    failed: Share
    undecided: Share
    delayed: tuple[Delayed, ...] = field(default=())
    pairs: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the model."""
        found = asdict(self)
        del found["model"]
        return found


def judge(a: Results, b: Results, noise: NoiseModel) -> Judged:
    """Compare two runs as ``attnbench compare`` does at its defaults, with this noise between runs."""
    return judged(compare_tables(a, b, noise=noise))


def judged(found: Comparison) -> Judged:
    """Return what a comparison said."""
    cells = tuple(
        CellJudged(cell.cell["method"], cell.change, (cell.lo, cell.hi))
        for cell in found.cells
        if cell.lo is not None and cell.hi is not None
    )
    return Judged(cells, found.exit_code)


def calibrate(
    same: Sequence[Results],
    delayed: Mapping[float, Sequence[Results]],
    judge: Judge = judge,
    *,
    noise: NoiseModel | None = None,
    measured_at: str = "",
) -> Calibration:
    """Judge all pairs of runs.

    Args:
        same: runs without a change, each with the same cells.
        delayed: runs whose calls were made slower, by the share that they were slower by.
        judge: how two runs are compared.
        noise: what to judge all pairs by; by default each pair is judged by the noise of the other runs.
        measured_at: when the last run was measured, for the model.

    Raises:
        BadInput: for fewer than four runs, and for runs that say nothing of the noise.
    """
    if len(same) < LEAST_RUNS:
        raise BadInput(f"{len(same)} runs without a change are too few: {LEAST_RUNS} or more are needed")
    model = WholeRuns(same, measured_at).model
    pairs = list(combinations(range(len(same)), 2))
    said = [judge(same[i], same[j], noise or model((i, j))) for i, j in pairs]
    weights = weights_of(len(same))
    of_pairs = np.stack([weights[:, i] * weights[:, j] for i, j in pairs], axis=1)

    def share(what: Callable[[CellJudged], bool]) -> Share:
        return share_of([[what(cell) for cell in each.cells] for each in said], of_pairs, len(same) // 2)

    def whole(code: int) -> Share:
        return share_of([[each.exit_code == code] for each in said], of_pairs, len(same) // 2)

    found = Calibration(
        model=model(),
        runs=len(same),
        slower=share(lambda cell: cell.change == "slower"),
        faster=share(lambda cell: cell.change == "faster"),
        unclear=share(lambda cell: cell.change == "unclear"),
        covered=share(lambda cell: cell.holds_truth),
        failed=whole(1),
        undecided=whole(3),
        delayed=tuple(
            _delayed(delay, same, runs, judge, lambda i: noise or model((i,)), weights)
            for delay, runs in sorted(delayed.items())
        ),
    )
    return with_details(found)


def with_details(found: Calibration) -> Calibration:
    """Return a calibration whose model holds what it found."""
    details = {"false_alarms": found.slower.value + found.faster.value, "covered": found.covered.value}
    details |= {"covered_lo": found.covered.lo, "covered_hi": found.covered.hi} if found.covered.of else {}
    for each in found.delayed:
        name = f"found_{each.delay:g}"
        details |= {name: each.slower.value, f"{name}_lo": each.slower.lo, f"{name}_hi": each.slower.hi}
    known = {name: value for name, value in details.items() if math.isfinite(value)}
    return replace(found, model=found.model.model_copy(update={"details": known}))


class WholeRuns:
    """Runs without a change, each with the same cells: how much they differ where they are compared as a whole."""

    def __init__(self, same: Sequence[Results], measured_at: str) -> None:
        self._speedups = [log_speedups(run) for run in same]
        self._latencies = [log_latencies(run) for run in same]
        self._dense = [log_dense(run) for run in same]
        self._device = next((row.device for run in same for row in run.rows if row.verdict == "ok"), "")
        self._measured_at = measured_at

    def model(self, left_out: Iterable[int] = ()) -> NoiseModel:
        """Return the noise between runs, of all but those with these numbers.

        Raises:
            BadInput: if no cell was measured twice.
        """
        without = set(left_out)
        kept = [number for number in range(len(self._dense)) if number not in without]
        speedups, cells = [self._speedups[number] for number in kept], max(map(len, self._latencies))
        return NoiseModel(
            device=self._device,
            speedup_sd=between_runs(speedups),
            latency_sd=between_runs([self._latencies[number] for number in kept]),
            uncancelled=uncancelled(
                [{name: each.value for name, each in run.items()} for run in speedups],
                [self._dense[number] for number in kept],
            ),
            runs=len(kept),
            cells=cells,
            provenance="measured",
            note=f"attnbench calibrate: {len(kept)} runs of {cells} methods",
            measured_at=self._measured_at,
        )


def log_speedups(run: Results) -> dict[str, Estimate]:
    """Return the estimate of each method's log speed-up over the dense baseline, paired by round, by cell_id."""
    means = means_of(run.rows, run.samples)
    found = {mean.cell_id: mean.log_speedup for mean in means if mean.first.method != DENSE}
    return {name: each for name, each in found.items() if each is not None}


def log_latencies(run: Results) -> dict[str, Estimate]:
    """Return the estimate of each method's log latency, by cell_id."""
    found = {mean.cell_id: mean.log_latency for mean in means_of(run.rows, run.samples)}
    return {name: each for name, each in found.items() if each is not None}


def log_dense(run: Results) -> float:
    """Return the log of the time that the dense baseline took beside the methods of a run; 0 without one."""
    found = [mean.log_dense.value for mean in means_of(run.rows, run.samples) if mean.log_dense is not None]
    return math.fsum(found) / len(found) if found else 0.0


def _delayed(
    delay: float,
    same: Sequence[Results],
    runs: Sequence[Results],
    judge: Judge,
    model: Callable[[int], NoiseModel],
    weights: np.ndarray[Any, np.dtype[np.float64]],
) -> Delayed:
    models = [model(number) for number in range(len(same))]
    pairs = list(product(range(len(same)), range(len(runs))))
    said = [judge(same[i], runs[j], models[i]) for i, j in pairs]
    mine = weights_of(len(runs))
    of_pairs = np.stack([weights[:, i] * mine[:, j] for i, j in pairs], axis=1)
    apart = min(len(same), len(runs))

    def share(change: str) -> Share:
        cells = [[cell.change == change for cell in each.cells if cell.method != DENSE] for each in said]
        return share_of(cells, of_pairs, apart)

    failed = share_of([[each.exit_code == 1] for each in said], of_pairs, apart)
    return Delayed(delay, len(runs), share("slower"), share("unclear"), failed)


def weights_of(runs: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return how often each run was drawn, [resamples, runs]."""
    generator = np.random.default_rng(_SEED + runs)
    return generator.multinomial(runs, np.full(runs, 1 / runs), size=RESAMPLES).astype(np.float64)


def share_of(happened: Sequence[Sequence[bool]], weights: np.ndarray[Any, np.dtype[np.float64]], apart: int) -> Share:
    """Return a share over pairs of runs.

    Args:
        happened: of each pair, of each of its cells.
        weights: how often each pair was drawn, [resamples, pairs].
        apart: how many pairs there are that have no run in common.
    """
    counts, cells = np.array([sum(each) for each in happened]), np.array([len(each) for each in happened])
    count, of = int(counts.sum()), int(cells.sum())
    if not of:
        return Share(0, 0, 0.0, 1.0)
    if 0 < count < of:
        drawn = weights @ cells
        lo, hi = np.quantile((weights @ counts)[drawn > 0] / drawn[drawn > 0], [0.025, 0.975])
        return Share(count, of, float(lo), float(hi))
    least = 0.025 ** (1 / max(1.0, apart * of / len(happened)))
    return Share(count, of, 0.0, 1 - least) if count == 0 else Share(count, of, least, 1.0)
