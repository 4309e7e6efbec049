"""When no more rounds are taken: small rules, of which the strictest holds, and the words for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from attnbench.bench.request import Request
from attnbench.results.intervals import median_interval

LEAST_ROUNDS = 3
MOST_ROUNDS = 20
MOST_ROUNDS_IN_TURNS = 40
"""The most rounds of runs that take turns: their rounds cost little beside what each run begins with."""

MOST_PRECISE_ROUNDS = 200
"""The most rounds if a precision is asked for, which may need more than usual."""

LEAST_PRECISE_ROUNDS = 6
"""Rounds below which an interval is the extremes of the samples, and says little of its own width."""


class Rule(Protocol):
    """Allows so many rounds."""

    def rounds(self, once: float) -> int:
        """Return the most rounds, if one takes ``once`` seconds."""

    @property
    def reason(self) -> str:
        """Why no more were taken, for the row."""


@dataclass(frozen=True, slots=True)
class FixedRounds:
    """As many rounds as were asked for."""

    count: int

    def rounds(self, once: float) -> int:
        """Return the number asked for, whatever a round takes."""
        return self.count

    @property
    def reason(self) -> str:
        """The number asked for."""
        return f"{self.count} rounds were asked for"


@dataclass(frozen=True, slots=True)
class Budget:
    """What fits into the seconds that are left, but at least ``LEAST_ROUNDS``.

    Attributes:
        asked: seconds, as after ``--budget``.
        left: seconds that are left of them.
    """

    asked: float
    left: float

    def rounds(self, once: float) -> int:
        """Return how many rounds fit."""
        return max(LEAST_ROUNDS, int(self.left / once)) if once > 0 else MOST_PRECISE_ROUNDS

    @property
    def reason(self) -> str:
        """The budget."""
        return f"the budget of {self.asked:g} s"


@dataclass(frozen=True, slots=True)
class MostRounds:
    """No more than a number that nobody asked for."""

    count: int = MOST_ROUNDS

    def rounds(self, once: float) -> int:
        """Return the number."""
        return self.count

    @property
    def reason(self) -> str:
        """The number."""
        return f"the most rounds, {self.count}"


@dataclass(frozen=True, slots=True)
class Precision:
    """Enough, once the interval of every figure is narrow.

    Attributes:
        width: half of a 95 % interval over its median, as 0.01.
    """

    width: float

    def reached(self, figures: Iterable[Sequence[float]]) -> bool:
        """Whether the median of each figure is known well enough.

        Args:
            figures: of each cell its speed-ups by round, or its latencies where there is no baseline.
        """
        return all(len(values) >= LEAST_PRECISE_ROUNDS and _width(values) <= self.width for values in figures)

    @property
    def reason(self) -> str:
        """The precision."""
        return f"the precision of {self.width:g}"


def rules_of(request: Request, left: float, *, in_turns: bool = False) -> tuple[Rule, ...]:
    """Return the rules of a request.

    Args:
        request: of the run.
        left: seconds that are left of its budget.
        in_turns: whether it takes turns with others.
    """
    if request.rounds is not None:
        return (FixedRounds(request.rounds),)
    usual = MOST_ROUNDS_IN_TURNS if in_turns else MOST_ROUNDS
    return MostRounds(usual if request.precision is None else MOST_PRECISE_ROUNDS), Budget(request.budget, left)


def planned(rules: Iterable[Rule], once: float) -> int:
    """Return how many rounds of ``once`` seconds all rules allow."""
    return min(rule.rounds(once) for rule in rules)


def why_stopped(request: Request, taken: int, *, precise: bool, in_turns: bool = False) -> str:
    """Return why a run took so many rounds and no more; "" without any.

    Args:
        request: of the run.
        taken: rounds that were taken.
        precise: whether the precision asked for was reached before the planned rounds were over.
        in_turns: whether it took turns with others.
    """
    if not taken:
        return ""
    if precise and request.precision is not None:
        return Precision(request.precision).reason
    fixed, *others = rules_of(request, 0.0, in_turns=in_turns)
    return fixed.reason if not others or fixed.rounds(0.0) <= taken else others[0].reason


def _width(values: Sequence[float]) -> float:
    found = median_interval(values)
    return (found.hi - found.lo) / 2 / found.median
