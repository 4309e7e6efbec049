"""The clock that every duration is read from: two of the system's clocks that must agree.

The readers are taken when this module is imported, which is before any method of another package is. So code that
replaces ``time.perf_counter`` or its siblings later changes no figure here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from attnbench.kernels.errors import AttnbenchError

MOST_APART = 0.02
"""Share by which the two clocks may differ: NTP lets one of them run faster or slower, by at most .0005 on Linux."""

SLACK = 1e-4
"""Seconds by which they may differ besides."""


class ClockFault(AttnbenchError, RuntimeError):
    """A clock said something impossible, and what it timed is not known."""


class ClockStood(ClockFault):
    """What was timed was shorter than the clock can tell."""

    def __init__(self) -> None:
        super().__init__("the clock did not move during a call")


Reader = Callable[[], int]
"""Returns nanoseconds since some moment."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time, nanoseconds: the first clock, the second, and the first again."""

    before: int
    check: int
    after: int


@dataclass(frozen=True, slots=True)
class Clock:
    """Two readers of time. Durations come from the first, and the second must confirm them.

    A thread may lose its core between two readings. So a moment reads the first clock on both sides of the second, and
    the second clock's duration must lie between the shortest and the longest that the first one allows.
    """

    main: Reader
    check: Reader

    def seconds(self) -> float:
        """Return the first clock alone, in seconds: for progress and budgets."""
        return self.main() / 1e9

    def now(self) -> Moment:
        """Read both clocks."""
        return Moment(self.main(), self.check(), self.main())

    def since(self, start: Moment) -> float:
        """Return the seconds from ``start`` to now.

        Raises:
            ClockFault: if a clock ran backwards, or the two do not agree.
        """
        end = self.now()
        shortest, longest = (end.before - start.after) / 1e9, (end.after - start.before) / 1e9
        checked = (end.check - start.check) / 1e9
        if (least := min(shortest, checked)) < 0:
            raise ClockFault(f"the clock ran backwards by {-least:.3g} s")
        if not shortest * (1 - MOST_APART) - SLACK <= checked <= longest * (1 + MOST_APART) + SLACK:
            raise ClockFault(f"two clocks disagree on one duration: {shortest:.4g} s and {checked:.4g} s")
        return shortest


def _system_clock() -> Clock:
    found: Any = time  # clock_gettime_ns is missing on Windows
    if hasattr(found, "CLOCK_MONOTONIC_RAW"):
        read = found.clock_gettime_ns
        return Clock(partial(read, found.CLOCK_MONOTONIC_RAW), partial(read, found.CLOCK_MONOTONIC))
    return Clock(time.perf_counter_ns, time.monotonic_ns)


CLOCK = _system_clock()
"""The clock of this system, in C: ``CLOCK_MONOTONIC_RAW`` checked by ``CLOCK_MONOTONIC`` where there are such."""
