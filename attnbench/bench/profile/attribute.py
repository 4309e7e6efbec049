"""Give every stretch of a profiled call to a phase: GPU work by the launch that made it, CPU time by its ranges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from attnbench.bench.profile.events import Event
from attnbench.bench.profile.timeline import OTHER, Timeline

Pass = Literal["fwd", "bwd"]
Key = tuple[Pass, str]

REPEAT = "repeat"
COMMUNICATE = "communicate"
GAP = "gap"
"""The phase of the time between two pieces of GPU work, in which nothing runs."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """One recorded call: when it ran on the CPU, and when its backward pass did."""

    start: int
    end: int
    backward: tuple[tuple[int, int], ...] = ()

    def holds(self, moment: int) -> bool:
        """Whether the call was running."""
        return self.start <= moment < self.end

    def pass_at(self, moment: int) -> Pass:
        """Return the pass of a moment, on whichever thread: the call waits while autograd's thread works."""
        return "bwd" if any(start <= moment < end for start, end in self.backward) else "fwd"


@dataclass(frozen=True, slots=True)
class Work:
    """Something the GPU did for a call, times in nanoseconds."""

    pass_: Pass
    phase: str
    name: str
    start: int
    end: int


@dataclass(frozen=True)
class GpuCall:
    """What one call made the GPU do, and the launches whose work the profiler did not keep."""

    work: tuple[Work, ...]
    dropped: tuple[Event, ...]


def repeats_of(events: Sequence[Event]) -> list[Repeat]:
    """Find the recorded calls, in order."""
    backward = [(e.start, e.end) for e in events if e.kind == "range" and e.name == "backward"]
    calls = [e for e in events if e.kind == "range" and e.name == REPEAT]
    return [Repeat(e.start, e.end, tuple(b for b in backward if e.start <= b[0] < e.end)) for e in calls]


def gpu_calls(events: Sequence[Event]) -> list[GpuCall]:
    """Attribute the GPU's work of every recorded call by its launches, which may lie on several threads."""
    timeline = Timeline.of(events)
    made: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        if event.kind == "work":
            made[event.correlation].append(event)
    # If both a runtime call and the driver call inside it are recorded, they share a number; the outer one counts.
    launches = list({event.correlation: event for event in reversed(events) if event.kind == "launch"}.values())[::-1]
    calls = []
    for repeat in repeats_of(events):
        work, dropped = [], []
        for launch in launches:
            if not repeat.holds(launch.start):
                continue
            pass_, phase = repeat.pass_at(launch.start), timeline.at(launch.thread, launch.start)
            own = made.get(launch.correlation, [])
            work += [Work(pass_, phase, w.name, w.start, w.end) for w in own]
            if not own:
                dropped.append(launch)
        calls.append(GpuCall(tuple(sorted(work, key=lambda w: w.start)), tuple(dropped)))
    return calls


def unlaunched(events: Sequence[Event]) -> list[Event]:
    """Return GPU work whose launch the profiler does not know, from the first recorded call on."""
    known = {event.correlation for event in events if event.kind == "launch"}
    begin = min((repeat.start for repeat in repeats_of(events)), default=0)
    return [e for e in events if e.kind == "work" and e.start >= begin and e.correlation not in known]


def work_ns(work: Iterable[Work]) -> dict[Key, int]:
    """Return the nanoseconds of each phase, and the gaps before the work of each pass.

    An exchange between ranks may go on beside other work. Then only the rest of it counts.
    """
    total: dict[Key, int] = defaultdict(int)
    reached: int | None = None
    inside = sorted(work, key=lambda w: w.start)
    busy = _stretches(w for w in inside if w.phase != COMMUNICATE)
    for w in inside:
        total[w.pass_, w.phase] += w.end - w.start
        if w.phase == COMMUNICATE:
            beside = sum(max(0, min(w.end, end) - max(w.start, start)) for start, end in busy)
            total[w.pass_, w.phase] -= beside
        if reached is not None and w.start > reached:
            total[w.pass_, GAP] += w.start - reached
        reached = w.end if reached is None else max(reached, w.end)
    return dict(total)


def _stretches(work: Iterable[Work]) -> list[tuple[int, int]]:
    """Return the stretches in which some work runs, which do not overlap. The work comes in order."""
    found: list[tuple[int, int]] = []
    for w in work:
        if found and w.start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], w.end)
        else:
            found.append((w.start, w.end))
    return found


def cpu_calls(events: Sequence[Event]) -> list[dict[Key, int]]:
    """Return the CPU nanoseconds of each phase of every recorded call, without those of phases within."""
    timeline = Timeline.of(events)
    calls = []
    for repeat in repeats_of(events):
        total: dict[Key, int] = defaultdict(int)
        for segments in timeline.threads.values():
            for s in segments:
                if repeat.holds(s.start):
                    total[repeat.pass_at(s.start), s.phase] += s.end - s.start
        spent = sum(end - start for start, end in repeat.backward)
        lengths: dict[Pass, int] = {"fwd": repeat.end - repeat.start - spent, "bwd": spent}
        for pass_, length in lengths.items():
            rest = length - sum(ns for (of, _), ns in total.items() if of == pass_)
            if rest > 0:
                total[pass_, OTHER] += rest
        calls.append(dict(total))
    return calls


def peak_bytes(events: Sequence[Event]) -> dict[Key, int]:
    """Return the most GPU bytes that the first recorded call held beyond its start, while in each phase."""
    timeline, peak, level = Timeline.of(events), dict[Key, int](), 0
    for repeat in repeats_of(events)[:1]:
        for moment, nbytes, phase in sorted(_levels(events, timeline), key=lambda change: change[0]):
            if repeat.holds(moment):
                level += nbytes
                key = repeat.pass_at(moment), phase
                peak[key] = max(peak.get(key, 0), level)
    return peak


def _levels(events: Sequence[Event], timeline: Timeline) -> Iterator[tuple[int, int, str]]:
    """Yield (moment, change in bytes, phase) for allocations, and for entering a phase, which changes no bytes."""
    for event in events:
        if event.kind == "memory":
            yield event.start, event.nbytes, timeline.at(event.thread, event.start)
    for segments in timeline.threads.values():
        for segment in segments:
            yield segment.start, 0, segment.phase
