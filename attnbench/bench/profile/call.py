"""Profile a call: phases in milliseconds, and whether they add up."""

from __future__ import annotations

import gzip
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from attnbench.bench.profile.attribute import (
    GAP,
    REPEAT,
    GpuCall,
    Key,
    Pass,
    cpu_calls,
    gpu_calls,
    peak_bytes,
    unlaunched,
    work_ns,
)
from attnbench.bench.profile.events import Event, read_events
from attnbench.bench.profile.timeline import OTHER
from attnbench.bench.trial import first_line
from attnbench.kernels.errors import BadInput
from attnbench.kernels.phases import PARENTS, PHASES, Range
from attnbench.machine.stopwatch import MOST_FLUSH, cache_bytes
from attnbench.machine.timers import HEAD_START
from attnbench.results.intervals import Interval, median_interval

TOLERANCE = 0.05
"""Share by which phases may differ from the unprofiled latency, and calls from one another, without a complaint."""

_ORDER = (*PHASES, OTHER, GAP)


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """What one phase takes of a call.

    Attributes:
        pass_: "fwd" or "bwd".
        phase: one of ``PHASES``; "other", what lies in none; or "gap", when the GPU waits within the call.
        parent: the phase whose time includes this one's, or None.
        time: milliseconds of a call, over the repeats.
        kernels: kernels, copies and fills a call; 0 on the CPU.
        peak_extra: most bytes in tensors beyond what was there before the call, while in the phase; None if unknown.
    """

    pass_: Pass
    phase: str
    parent: str | None
    time: Interval
    kernels: int
    peak_extra: int | None


@dataclass(frozen=True)
class Profile:
    """A profiled call.

    Attributes:
        phases: those without a parent add up to ``span_ms`` where no two pieces of GPU work overlap.
        busy_ms: median time in which the GPU works; on the CPU, of the call.
        span_ms: median from the first start to the last end of GPU work; on the CPU, of the call.
        gap_ms: what is between the two.
        unnamed: the GPU work of phase "other", milliseconds a call by name.
        complaint: why the figures are not to be trusted; empty if they are.
        notes: what else went wrong.
    """

    phases: tuple[PhaseTime, ...]
    busy_ms: float
    span_ms: float
    gap_ms: float
    unnamed: Mapping[str, float]
    complaint: str
    notes: tuple[str, ...] = ()


def profile_call(
    call: Callable[[], object],
    prepare: Callable[[], object],
    device: torch.device,
    repeats: int,
    *,
    latency_ms: float | None = None,
    trace: Path | None = None,
    memory: bool = True,
) -> Profile:
    """Profile a call that has run before, ``repeats`` times with a cold cache.

    Args:
        call: what is profiled. What it runs in the range ``during("backward")`` is its backward pass.
        prepare: run before each call, not profiled.
        device: where the call computes.
        repeats: recorded calls, at least 1; one more goes before them, since a session drops events when it begins.
        latency_ms: the unprofiled median of the same call; the profile complains if its phases do not add up to it.
        trace: where to write a Chrome trace, gzipped if the name ends in ".gz".
        memory: on CUDA, find the peak memory of phases too, by a recording of its own.

    Raises:
        BadInput: if ``repeats`` is not at least 1.
    """
    if repeats < 1:
        raise BadInput(f"repeats is {repeats!r}; a profile needs at least 1")
    flush = torch.empty(min(2 * cache_bytes(device), MOST_FLUSH), dtype=torch.int8, device=device)

    def cool() -> None:
        flush.fill_(1)

    events, notes = record_calls(call, prepare, device, repeats, flush=cool, trace=trace)
    if device.type != "cuda":
        return replace(cpu_profile(events, repeats, latency_ms=latency_ms), notes=notes)
    peaks: dict[Key, int] = {}
    try:
        if memory:
            # Apart, since recording memory takes time.
            peaks = peak_bytes(record_calls(call, prepare, device, 1, flush=cool, memory=True)[0])
    except Exception as error:  # the times are right without it
        notes += (f"the memory of phases is not known: {first_line(error)}",)
    return replace(gpu_profile(events, repeats, latency_ms=latency_ms, peaks=peaks), notes=notes)


def record_calls(
    call: Callable[[], object],
    prepare: Callable[[], object],
    device: torch.device,
    repeats: int,
    *,
    flush: Callable[[], object],
    memory: bool = False,
    trace: Path | None = None,
) -> tuple[list[Event], tuple[str, ...]]:
    """Record calls, after one that is not in the range ``REPEAT``: a session may drop what comes at its beginning.

    Args:
        call: what is recorded.
        prepare: run before each call.
        device: where the call computes.
        repeats: recorded calls.
        flush: run after ``prepare``; makes the cache cold.
        memory: whether allocations are recorded too.
        trace: where to write a Chrome trace.

    Returns:
        what was recorded, and what went wrong with the trace.
    """
    on_gpu = device.type == "cuda"

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize(device)

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    # Without acc_events, torch 2.11 warns that events of other cycles are lost, and this is one cycle.
    with torch_profile(activities=activities, profile_memory=memory, acc_events=True) as session:
        prepare()
        call()
        for _ in range(repeats):
            prepare()
            flush()
            wait()
            if on_gpu:
                torch.cuda._sleep(HEAD_START)  # the CPU runs ahead, so that gaps are the GPU's own
            with Range(REPEAT):
                call()
            wait()
    profiler = session.profiler
    assert profiler is not None
    results = profiler.kineto_results
    assert results is not None
    events = read_events(results.events())
    if trace is None:
        return events, ()
    try:
        session.export_chrome_trace(str(trace))
        _check_whole(trace)
    except Exception as error:  # the times are right without it
        with suppress(OSError):
            trace.unlink(missing_ok=True)
        return events, (f"no trace was written: {first_line(error)}",)
    return events, ()


def _check_whole(trace: Path) -> None:
    """Check that a trace ends as JSON does: torch does not report a full disk.

    Raises:
        OSError: if it does not.
    """
    end = b""
    with gzip.open(trace) if trace.suffix == ".gz" else trace.open("rb") as stream:
        while piece := stream.read(2**20):
            end = (end + piece)[-16:]
    if not end.rstrip().endswith(b"}"):
        raise OSError("it was cut off; is the disk full?")


def gpu_profile(
    events: Sequence[Event], repeats: int, *, latency_ms: float | None = None, peaks: Mapping[Key, int] | None = None
) -> Profile:
    """Return the profile of recorded GPU calls, and complain of events that are missing."""
    calls = gpu_calls(events)
    times = [work_ns(call.work) for call in calls]
    kernels = [Counter((work.pass_, work.phase) for work in call.work) for call in calls]
    spans = [max(w.end for w in call.work) - call.work[0].start if call.work else 0 for call in calls]
    gaps = [sum(ns for (_, phase), ns in total.items() if phase == GAP) for total in times]
    unnamed: dict[str, float] = defaultdict(float)
    for call in calls:
        for work in call.work:
            if work.phase == OTHER:
                unnamed[work.name] += (work.end - work.start) / 1e6 / len(calls)
    problems = [
        *_missing(events, calls, repeats),
        *_sum_problem(times, latency_ms, "the phases and the gaps between kernels"),
    ]
    return Profile(
        phases=_phase_times(times, kernels, peaks or {}),
        busy_ms=_median_ms([span - gap for span, gap in zip(spans, gaps, strict=True)]),
        span_ms=_median_ms(spans),
        gap_ms=_median_ms(gaps),
        unnamed=dict(unnamed),
        complaint="; ".join(problems),
    )


def cpu_profile(events: Sequence[Event], repeats: int, *, latency_ms: float | None = None) -> Profile:
    """Return the profile of recorded CPU calls: time in ranges, and in none."""
    times = cpu_calls(events)
    problems = [*_few(len(times), repeats), *_sum_problem(times, latency_ms, "the phases")]
    whole = _median_ms([sum(total.values()) for total in times])
    return Profile(_phase_times(times, [], {}), whole, whole, 0.0, {}, "; ".join(problems))


def _phase_times(
    times: Sequence[Mapping[Key, int]], kernels: Sequence[Mapping[Key, int]], peaks: Mapping[Key, int]
) -> tuple[PhaseTime, ...]:
    times, kernels = [_with_parents(t) for t in times], [_with_parents(k) for k in kernels]
    keys = sorted({key for total in times for key in total}, key=lambda key: (key[0] == "bwd", _ORDER.index(key[1])))
    found = []
    for key in keys:
        time = median_interval([total.get(key, 0) / 1e6 for total in times])
        count = round(median_interval([counts.get(key, 0) for counts in kernels]).median) if kernels else 0
        inside = [
            bytes_ for (of, name), bytes_ in peaks.items() if of == key[0] and key[1] in (name, PARENTS.get(name))
        ]
        found.append(PhaseTime(*key, PARENTS.get(key[1]), time, count, max(inside, default=None)))
    return tuple(found)


def _with_parents(values: Mapping[Key, int]) -> dict[Key, int]:
    """Add what the parts of a phase take to the phase itself."""
    total = defaultdict(int, values)
    for (pass_, phase), value in values.items():
        if phase in PARENTS:
            total[pass_, PARENTS[phase]] += value
    return dict(total)


def _missing(events: Sequence[Event], calls: Sequence[GpuCall], repeats: int) -> list[str]:
    problems = _few(len(calls), repeats)
    dropped = [launch for call in calls for launch in call.dropped]
    launched = len(dropped) + sum(len(call.work) for call in calls)
    if dropped:
        names = ", ".join(sorted({launch.name for launch in dropped}))
        problems.append(f"the profiler dropped {len(dropped)} of {launched} GPU events: of {names} no work was seen")
    if strays := unlaunched(events):
        names = ", ".join(sorted({work.name[:60] for work in strays})[:3])
        problems.append(f"of {len(strays)} GPU events the launch was not seen: {names}")
    counts = sorted({len(call.work) for call in calls})
    if len(counts) > 1:
        problems.append(f"equal calls made from {counts[0]} to {counts[-1]} GPU events")
    if not counts or counts[-1] == 0:
        problems.append("no GPU event was seen (with KINETO_LOG_LEVEL=1 in the environment the profiler may say why)")
    return problems


def _few(found: int, repeats: int) -> list[str]:
    return [] if found == repeats else [f"the profiler kept {found} of {repeats} calls"]


def _sum_problem(times: Sequence[Mapping[Key, int]], latency_ms: float | None, what: str) -> list[str]:
    """Complain if the phases of the median call are not the unprofiled latency."""
    if latency_ms is None or not times:
        return []
    total = _median_ms([sum(call.values()) for call in times])
    off = total / latency_ms - 1
    if abs(off) <= TOLERANCE:
        return []
    more = "more" if off > 0 else "less"
    return [f"{what} add up to {total:.4g} ms, {abs(off):.1%} {more} than the unprofiled {latency_ms:.4g} ms"]


def _median_ms(values: Sequence[int]) -> float:
    return median_interval([value / 1e6 for value in values]).median if values else 0.0
