"""Which phase a thread is in at each moment."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from attnbench.bench.profile.events import UNKNOWN_THREAD, Event
from attnbench.kernels.phases import PHASES

OTHER = "other"
"""The phase of time outside all ranges."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one thread's time, in nanoseconds, and the innermost phase there."""

    start: int
    end: int
    phase: str


def segments_of(ranges: Iterable[tuple[int, int, str]]) -> list[Segment]:
    """Cut nested ranges (start, end, phase) of one thread into stretches, in order, each with its innermost phase."""
    found: list[Segment] = []
    open_: list[tuple[int, str]] = []
    at = 0

    def advance(to: int) -> None:
        nonlocal at
        if open_ and to > at:
            found.append(Segment(at, to, open_[-1][1]))
        at = max(at, to)

    for start, end, phase in sorted(ranges, key=lambda r: (r[0], -r[1])):
        while open_ and open_[-1][0] <= start:
            advance(open_[-1][0])
            open_.pop()
        advance(start)
        open_.append((end, phase))
    while open_:
        advance(open_[-1][0])
        open_.pop()
    return found


@dataclass(frozen=True)
class Timeline:
    """The phases of every thread."""

    threads: dict[int, list[Segment]]

    @classmethod
    def of(cls, events: Iterable[Event]) -> Timeline:
        """Lay out the ranges of a profile, and the gradients of operators that lie in ranges.

        A gradient runs on one of autograd's threads, outside the ranges of the forward pass. It belongs to the phase in
        which its operator was called, unless a range was opened in the backward pass itself.
        """
        events = list(events)
        ranges: dict[int, list[tuple[int, int, str]]] = {}
        for event in events:
            if event.kind == "range" and event.name in PHASES:
                ranges.setdefault(event.thread, []).append((event.start, event.end, event.name))
        forward = cls({thread: segments_of(own) for thread, own in ranges.items()})
        operators: dict[tuple[int, int], list[Event]] = {}
        for event in events:
            if event.kind == "operator":
                operators.setdefault((event.thread, event.sequence), []).append(event)
        for event in events:
            if event.kind != "gradient":
                continue
            candidates = operators.get((event.forward_thread, event.sequence), [])
            # The last operator made the node; earlier ones only saw the sequence number that came next.
            made_by = max((o for o in candidates if o.start < event.start), key=lambda o: o.start, default=None)
            phase = OTHER if made_by is None else forward.at(made_by.thread, made_by.start)
            if phase != OTHER:
                ranges.setdefault(event.thread, []).append((event.start, event.end, phase))
        return cls({thread: segments_of(own) for thread, own in ranges.items()})

    def at(self, thread: int, moment: int) -> str:
        """Return the innermost phase of a thread at a moment, or "other".

        For an unknown thread, it is the phase of whichever thread is in one; of several, the one entered last.
        """
        threads = self.threads if thread == UNKNOWN_THREAD else (thread,)
        found = [segment for one in threads if (segment := self._segment(one, moment)) is not None]
        return max(found, key=lambda segment: segment.start).phase if found else OTHER

    def _segment(self, thread: int, moment: int) -> Segment | None:
        segments = self.threads.get(thread, [])
        place = bisect_right(segments, moment, key=lambda segment: segment.start) - 1
        return segments[place] if place >= 0 and moment < segments[place].end else None
