"""What else this machine does while calls are timed: other processes, a hypervisor, waits for a core, frequency."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from attnbench.machine.clock import CLOCK

WINDOW = 0.5
"""Seconds that shares are taken over at least: the system counts a core's time in steps of 10 ms."""

_PROC = Path("/proc")
_CPUS = Path("/sys/devices/system/cpu")
_MOST_CORES = 16
"""Cores whose frequency is read; each takes some microseconds."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since some moment, seconds; None where the system does not tell.

    Attributes:
        moment: when.
        own: CPU time of this process.
        busy, stolen, total: of the cores that this process may use: at work, taken by the hypervisor, and all there is.
        waited: what this thread was ready to run for, while another had the core.
        switches: how often a core was taken from this process.
    """

    moment: float
    own: float
    busy: float | None = None
    stolen: float | None = None
    total: float | None = None
    waited: float | None = None
    switches: int | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What else the machine did in a stretch of time; None where it is not known.

    Attributes:
        load: processes that run or want to, mean over the last minute.
        others_busy: share of the cores' time that other processes used.
        steal: share of the cores' time that the hypervisor gave to others.
        waited: share of the time in which this thread was ready and another had the core.
        switches: how often a core was taken from this process.
        cpu_mhz: mean frequency of the cores.
    """

    load: float | None = None
    others_busy: float | None = None
    steal: float | None = None
    waited: float | None = None
    switches: int | None = None
    cpu_mhz: float | None = None


class LoadWatch:
    """Tells the load since the newest look that is ``WINDOW`` old, or the oldest one."""

    def __init__(self, read: Callable[[], Counters] | None = None) -> None:
        self._read = read or read_counters
        self._past = deque([self._read()])

    def look(self) -> Load:
        """Return the load up to now."""
        now = self._read()
        while len(self._past) > 1 and now.moment - self._past[1].moment >= WINDOW:
            self._past.popleft()
        self._past.append(now)
        return load_between(self._past[0], now)

    def leave_out(self, since: Counters) -> None:
        """Forget what the machine did since a reading, as if no time had passed."""
        now = self._read()
        self._past = deque(_moved(each, since, now) for each in self._past)


def load_between(before: Counters, after: Counters) -> Load:
    """Return what the machine did between two readings, with its load and frequency as they are now."""
    seconds = after.moment - before.moment
    total = _difference(before.total, after.total)
    busy, stolen = _difference(before.busy, after.busy), _difference(before.stolen, after.stolen)
    waited, switches = _difference(before.waited, after.waited), _difference(before.switches, after.switches)
    others = None if busy is None else max(0.0, busy - (after.own - before.own))
    return Load(
        load=_load_average(),
        others_busy=_share(others, total),
        steal=_share(stolen, total),
        waited=_share(waited, seconds),
        switches=None if switches is None else round(switches),
        cpu_mhz=_frequency(),
    )


def _moved(each: Counters, before: Counters, after: Counters) -> Counters:
    """Return an earlier reading, later by what passed between two others."""

    def later(name: str) -> Any:
        then, since, now = (getattr(reading, name) for reading in (each, before, after))
        return None if None in (then, since, now) else then + now - since

    return Counters(**{field.name: later(field.name) for field in fields(Counters)})


def read_counters() -> Counters:
    """Read this system's counters."""
    used = os.times()
    busy, stolen, total = _core_times(_text(_PROC / "stat"), _usable()) or (None, None, None)
    scheduled = _text(_PROC / "thread-self" / "schedstat").split()
    return Counters(
        moment=CLOCK.seconds(),
        own=used.user + used.system,
        busy=busy,
        stolen=stolen,
        total=total,
        waited=int(scheduled[1]) / 1e9 if len(scheduled) == 3 else None,
        switches=_switches(),
    )


def _core_times(stat: str, usable: Collection[int]) -> tuple[float, float, float] | None:
    """Return the seconds at work, stolen and in all of the usable cores, from the text of /proc/stat."""
    tick = 1 / os.sysconf("SC_CLK_TCK")
    busy = stolen = total = 0
    for line in stat.splitlines():
        name, *numbers = line.split()
        if not name.startswith("cpu") or not name[3:].isdecimal() or int(name[3:]) not in usable:
            continue
        times = [int(number) for number in numbers[:8]]  # user nice system idle iowait irq softirq steal
        if len(times) == 8:
            busy += times[0] + times[1] + times[2] + times[5] + times[6]
            stolen += times[7]
            total += sum(times)
    return (busy * tick, stolen * tick, total * tick) if total else None


def governors() -> tuple[str, ...]:
    """Return the frequency governors of the usable cores, each once; none where the system does not tell."""
    found = (_text(_CPUS / f"cpu{core}" / "cpufreq" / "scaling_governor").strip() for core in sorted(_usable()))
    return tuple(dict.fromkeys(filter(None, found)))


def _frequency() -> float | None:
    """Return the mean frequency of the first usable cores in MHz."""
    texts = (
        _text(_CPUS / f"cpu{core}" / "cpufreq" / "scaling_cur_freq").strip() for core in sorted(_usable())[:_MOST_CORES]
    )
    found = [int(text) / 1e3 for text in texts if text.isdecimal()]
    return sum(found) / len(found) if found else None


def _usable() -> Collection[int]:
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not on macOS
        return range(os.cpu_count() or 1)


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _switches() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0.0, after - before)


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole or whole < 0 else min(1.0, part / whole)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
