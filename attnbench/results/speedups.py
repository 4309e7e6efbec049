"""The speed-up over the dense baseline with its interval: the one computation, whoever shows it.

Terminal, page, documents, tables, sweeps, steps and the columns of ``compare`` take theirs from here. So does what a
method with a state is charged for making it anew, by which reports rank; ``compare``, ``gate`` and ``history`` judge
the step between two refreshes. What they conclude from several runs rests on estimates that hold the noise between runs
as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from attnbench.results.bootstrap import MIN_BOOTSTRAP, ends, medians_drawn, tail_of
from attnbench.results.records.cells import Interval, Row

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Side = Literal["faster", "slower", "unclear"]
RunRound = tuple[str, int]
"""A run, by its run_id, and the number of a round that all its methods were timed in."""

_SEED = 20240
_ANOTHER = 7919
"""Between the seeds of two sides that are drawn each by itself."""

_MOST = 700.0
"""The largest logarithm of which a float holds the exponential."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio and its interval."""

    value: float
    lo: float
    hi: float

    @property
    def side(self) -> Side:
        """On which side of 1 the whole interval lies: "faster" above it, "unclear" if it holds 1."""
        return "faster" if self.lo > 1 else "slower" if self.hi < 1 else "unclear"


@dataclass(frozen=True, slots=True)
class Timings:
    """What a speed-up rests on.

    Attributes:
        own: times of the method in ms, [N].
        dense: those of the dense baseline: in the same rounds if they are paired, [N]; otherwise in others, [M], or
            their median alone, [1], whose noise the interval then leaves out.
        paired: whether the two were taken in the same rounds.
    """

    own: Sequence[float]
    dense: Sequence[float]
    paired: bool = True

    @property
    def is_few(self) -> bool:
        """Whether there are too few samples to resample: the ends of the interval are extremes then."""
        return min(self._sizes) < MIN_BOOTSTRAP

    @property
    def kind(self) -> Interval:
        """What the ends of the interval are."""
        return "min-max" if self.is_few else "bootstrap95"

    @property
    def _extremes(self) -> tuple[float, float]:
        if self.paired and self.own == self.dense:
            return 0.0, 0.0
        dense, own = ([math.log(end(times)) for end in (min, max)] for times in (self.dense, self.own))
        return dense[0] - own[1], dense[1] - own[0]

    @property
    def _sizes(self) -> list[int]:
        return [len(self.own), *([len(self.dense)] if self.paired or len(self.dense) > 1 else [])]

    def speedup(self, value: float | None = None) -> Ratio:
        """Return the speed-up, median(dense) / median(own), and its 95 % interval.

        In a round, method and baseline follow each other within moments, so a power cap or a busy neighbour slows both.
        Paired rounds are therefore drawn whole: what both sides share cancels in each resample, as it does in the
        ratio. Drawn each by itself, the two sides would count it as noise of the ratio. In a simulation of 7 to 20
        rounds that share 3 % of noise beside .3 % of their own, such intervals are 5 to 10 times as wide, and both
        kinds hold the truth in 97 % of cases or more; without shared noise, the two agree. The ends are percentiles
        with tails widened for few rounds, without which 7 rounds would hold it in 88 %.

        Below six samples the ends are min(dense) / max(own) and max(dense) / min(own); the baseline over itself is 1,
        with no interval.

        Args:
            value: the speed-up as it was recorded; by default it is computed.
        """
        from statistics import median

        lo, hi = self._extremes if self.is_few else ends(self.log_draws(_SEED), tail_of(min(self._sizes)))
        lo, hi = (math.exp(min(end, _MOST)) for end in (lo, hi))
        found = median(self.dense) / median(self.own) if value is None else value
        return Ratio(found, min(found, lo), max(found, hi))

    def log_draws(self, seed: int) -> Floats:
        """Return logarithms of the speed-up as it might have been: [RESAMPLES], or the two extremes of few samples.

        Args:
            seed: of the draws.
        """
        import numpy as np

        if self.is_few:
            return np.asarray(self._extremes, dtype=np.float64)
        if self.paired:
            pairs = np.asarray(sorted(zip(self.own, self.dense, strict=True)), dtype=np.float64)
            own, dense = medians_drawn(pairs[:, 0], seed), medians_drawn(pairs[:, 1], seed)
        else:
            own, dense = (
                medians_drawn(np.sort(np.asarray(times, dtype=np.float64)), each)
                for times, each in ((self.own, seed), (self.dense, seed + _ANOTHER))
            )
        found: Floats = np.log(dense) - np.log(own)
        return found


def charged_ms(row: Row, time: float) -> float:
    """Return what a step takes in the mean if one without a refresh takes ``time``, in ms.

    Of ``refresh_every`` steps, one makes the state of the method anew, and of ``other_every`` one is of a third kind.
    Without a state it is ``time`` itself.

    Args:
        row: with a latency.
        time: of a steady step.
    """
    if row.latency_amortised_ms is None or row.latency_ms is None or row.refresh_every is None:
        return time
    others = 1 / row.refresh_every + (0.0 if row.other_every is None else 1 / row.other_every)
    return row.latency_amortised_ms + (time - row.latency_ms) * (1 - others)


def ranked_ms(row: Row) -> float | None:
    """Return what methods are ranked by: latency_amortised_ms of a method with a state, otherwise latency_ms."""
    return None if row.latency_ms is None else charged_ms(row, row.latency_ms)


def ranked_ends(row: Row) -> tuple[float | None, float | None]:
    """Return the ends of the interval of ``ranked_ms``; the refresh is taken for exact."""
    low, high = row.latency_lo_ms, row.latency_hi_ms
    return None if low is None else charged_ms(row, low), None if high is None else charged_ms(row, high)


def ranked_speedup(row: Row) -> float | None:
    """Return the speed-up that methods are ranked by, what making a state anew costs included."""
    if row.latency_amortised_ms is None or row.baseline_ms is None:
        return row.speedup
    return row.baseline_ms / row.latency_amortised_ms


def ranked_translation(row: Row) -> float | None:
    """Return the speed-up that methods are ranked by times density: 1 where time falls as far as the pairs kept.

    There is none where no pair is kept.
    """
    speedup = ranked_speedup(row)
    return speedup * row.density if speedup is not None and row.density else None


def same_rounds(own: Mapping[RunRound, float], other: Mapping[RunRound, float]) -> Timings | None:
    """Return what the rounds that two methods share say of their ratio; None where they share none.

    What the dense baseline did in a round is no part of that, so a stray sample of it makes no two methods alike.

    Args:
        own: times of one in ms, by round.
        other: those of the other, which take the place of the baseline: the ratio is how many times slower it is.
    """
    both = sorted(own.keys() & other.keys())
    return Timings([own[each] for each in both], [other[each] for each in both]) if both else None


def paired_timings(rounds: Iterable[tuple[float, float | None]]) -> Timings | None:
    """Return what rounds, times and those of the baseline in ms, say of a speed-up; None if none has a baseline."""
    pairs = [(own, dense) for own, dense in rounds if dense]
    return Timings([own for own, _ in pairs], [dense for _, dense in pairs]) if pairs else None
