"""Flags: what spoils a latency without taking it away. The rules are data, and rest on a cell's samples and engine."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attnbench.results.bootstrap import MIN_BOOTSTRAP
from attnbench.results.records.cells import FLAGS, Flag, Sample

BADGES: dict[str, str] = {
    "power-capped": "capped", "cpu-bound": "cpu", "slow-enqueue": "enqueue", "busy-machine": "busy",
    "unstable": "unstable", "plain-torch": "torch", "unmatched": "missed", "replayed-video": "replayed",
}  # fmt: skip
"""Short words for tables."""


def badges(flags: str | None) -> str:
    """Return the short words of a row's flags, "busy, unstable"; "" without any."""
    return ", ".join(BADGES.get(flag, flag) for flag in (flags or "").split(",") if flag)


POWER_CAP = 0x4
"""NVML's clock event reason "software power cap"."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a flag is raised.

    Attributes:
        capped_share: share of the samples from which a power cap counts.
        host_over_latency: enqueuing takes this many times the latency, or more.
        eager_over_latency: a back-to-back call takes this many times the latency, or more.
        eager_keeps_up: below this many times the latency, back-to-back calls show that slow enqueuing does not hold up.
        waited_share: share of the samples from which calls count as waiting for the GPU.
        others_busy: share of the cores' time that other processes use, above which a sample is spoilt.
        steal: the same of a hypervisor.
        waited: share of the time in which this thread waited for a core, above which a sample is spoilt.
        spoilt_share: share of the samples from which spoilt ones count.
        spread: distance between the quartiles over the median, above which samples are unstable.
        gap: distance between two neighbouring samples over the median, above which they may be two groups.
        group_share: share of the samples that each of two groups has at least.
        least: samples from which two groups can be told.
    """

    capped_share: float = 0.5
    host_over_latency: float = 1.0
    eager_over_latency: float = 1.25
    eager_keeps_up: float = 1.1
    waited_share: float = 0.5
    others_busy: float = 0.15
    steal: float = 0.02
    waited: float = 0.05
    spoilt_share: float = 0.25
    spread: float = 0.15
    gap: float = 0.1
    group_share: float = 0.25
    least: int = 6


BOUNDS = Bounds()


def flags_of(
    samples: Sequence[Sample], *, on_gpu: bool, eager_ms: float | None = None, enqueuing_timed: bool = False,
    plain_torch: bool = False, unmatched: bool = False, replayed: bool = False, bounds: Bounds = BOUNDS,
) -> tuple[Flag, ...]:  # fmt: skip
    """Return the flags of a cell, in the order of ``FLAGS``.

    Args:
        samples: of the cell.
        on_gpu: whether a GPU ran it. On a CPU, enqueuing and computing are one.
        eager_ms: the wall clock of a back-to-back call.
        enqueuing_timed: whether enqueuing is timed where a call does not wait, so that a sample without it did wait.
        plain_torch: whether a GPU ran plain torch because no kernel serves.
        unmatched: whether the density that was asked for was not reached.
        replayed: whether the video that inputs are modelled on is too short, and is played forward and back.
        bounds: when a flag is raised.
    """
    if not samples:
        return ()
    held_up = _cpu_bound(samples, eager_ms, bounds, enqueuing_timed=enqueuing_timed)
    keeps_up = _by_enqueuing_alone(samples, eager_ms, bounds)
    raised = {
        "power-capped": _capped(samples, bounds),
        "cpu-bound": on_gpu and held_up and not keeps_up,
        "slow-enqueue": on_gpu and held_up and keeps_up,
        "busy-machine": _share_of(samples, lambda sample: _is_spoilt(sample, on_gpu, bounds)) >= bounds.spoilt_share,
        "unstable": is_unstable([sample.cold_ms for sample in samples], bounds),
        "plain-torch": plain_torch,
        "unmatched": unmatched,
        "replayed-video": replayed,
    }
    return tuple(flag for flag in FLAGS if raised[flag])


def is_unstable(samples_ms: Sequence[float], bounds: Bounds = BOUNDS) -> bool:
    """Whether samples spread too far, or fall into two groups."""
    if len(samples_ms) < 2:
        return False
    values, median = sorted(samples_ms), statistics.median(samples_ms)
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    if third - first > bounds.spread * median:
        return True
    if len(values) < bounds.least:
        return False
    gaps = [b - a for a, b in itertools.pairwise(values)]
    below = gaps.index(max(gaps)) + 1
    smaller = min(below, len(values) - below)
    return max(gaps) > bounds.gap * median and smaller >= bounds.group_share * len(values)


def strays(samples_ms: Sequence[float], bounds: Bounds = BOUNDS) -> list[float]:
    """Return the samples far from the median that ends of an interval rest on: those of few, which are not unstable.

    Of so few samples, an interval ends at the smallest and the largest; of more, a stray one does not count.
    """
    if not 3 <= len(samples_ms) < MIN_BOOTSTRAP or is_unstable(samples_ms, bounds):
        return []
    median = statistics.median(samples_ms)
    return [each for each in samples_ms if abs(each - median) > bounds.spread * median]


def _capped(samples: Sequence[Sample], bounds: Bounds) -> bool:
    return _share_of(samples, lambda sample: bool((sample.clock_reasons or 0) & POWER_CAP)) >= bounds.capped_share


def _cpu_bound(
    samples: Sequence[Sample], eager_ms: float | None, bounds: Bounds, *, enqueuing_timed: bool = False
) -> bool:
    latency = statistics.median(sample.cold_ms for sample in samples)
    if eager_ms is not None and eager_ms >= bounds.eager_over_latency * latency:
        return True
    host = [sample.host_ms for sample in samples if sample.host_ms is not None]
    if (host or enqueuing_timed) and _waits(samples, bounds):
        return True
    return bool(host) and statistics.median(host) >= bounds.host_over_latency * latency


def _waits(samples: Sequence[Sample], bounds: Bounds) -> bool:
    return _share_of(samples, lambda sample: sample.host_ms is None) >= bounds.waited_share


def _by_enqueuing_alone(samples: Sequence[Sample], eager_ms: float | None, bounds: Bounds) -> bool:
    """Whether only the time of enqueuing could say that the CPU holds a call up, and calls back to back deny it.

    A call that waits for the GPU has what it waits in its latency too, so calls back to back say nothing of it.
    """
    if eager_ms is None or _waits(samples, bounds):
        return False
    return eager_ms < bounds.eager_keeps_up * statistics.median(sample.cold_ms for sample in samples)


def as_read(flags: str, samples: Sequence[Sample], eager_ms: float | None, bounds: Bounds = BOUNDS) -> str:
    """Return recorded flags with "slow-enqueue" for a "cpu-bound" that back-to-back calls deny.

    Until that flag was there, enqueuing alone raised "cpu-bound". What is recorded stays as it is.

    Args:
        flags: as a row has them.
        samples: what the latency of the row rests on.
        eager_ms: the wall clock of a back-to-back call.
        bounds: when a flag is raised.
    """
    raised = flags.split(",")
    if "cpu-bound" not in raised or not samples or not _by_enqueuing_alone(samples, eager_ms, bounds):
        return flags
    told = {"slow-enqueue" if flag == "cpu-bound" else flag for flag in raised}
    return ",".join(flag for flag in FLAGS if flag in told)


def _is_spoilt(sample: Sample, on_gpu: bool, bounds: Bounds) -> bool:
    """Whether others used the device: the GPU's other processes, or the CPU's."""
    if on_gpu:
        return bool(sample.foreign_processes)
    return (
        (sample.others_busy or 0) > bounds.others_busy
        or (sample.steal or 0) > bounds.steal
        or (sample.waited or 0) > bounds.waited
    )


def _share_of(samples: Sequence[Sample], holds: Callable[[Sample], bool]) -> float:
    return sum(map(holds, samples)) / len(samples)
