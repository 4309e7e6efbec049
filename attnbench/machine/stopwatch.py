"""Time one call, by perf_counter on the CPU and by events on CUDA, first with a cold cache and then with a warm one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from attnbench.results.records.cells import Timer

MOST_FLUSH = 256 * 2**20
"""Bytes written at most to make the cache cold."""

HEAD_START = 10**8
"""GPU cycles, about 50 ms, that the GPU is kept waiting while the CPU enqueues a call. Ours take 2 to 13 ms."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one call.

    Attributes:
        cold_ms: with a cold cache.
        warm_ms: of the same call right after; None where it is not taken.
        host_ms: what the CPU took to enqueue the cold call; None where that is the call itself, or it waited for the
            device.
    """

    cold_ms: float
    warm_ms: float | None = None
    host_ms: float | None = None


class Stopwatch:
    """Times calls on one device. ``prepare`` runs untimed before each call, ``call`` is what is timed.

    The cold cache is made by writing a buffer of twice the last-level cache (at most 256 MiB) before the call. The warm
    sample is taken on CUDA only: there a second call costs little, and phases such as pooling fit the cache.

    On CUDA the GPU is kept busy until the whole call is enqueued, as it is in a model, where the CPU runs ahead of it;
    what enqueuing takes is told apart. A call that waits for the device pays for its waits all the same.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.timer: Timer = "cuda_events" if device.type == "cuda" else "perf_counter"
        self._flush = torch.empty(min(2 * cache_bytes(device), MOST_FLUSH), dtype=torch.int8, device=device)

    def time(
        self, call: Callable[[], object], prepare: Callable[[], object] = lambda: None, *, warm: bool = True
    ) -> Timing:
        """Take one sample; without ``warm`` only the cold one, for calls that take seconds."""
        if self.timer == "perf_counter":
            return Timing(self._cpu(call, prepare))
        cold_ms, host_ms = self._cuda(call, prepare, flush=True)
        warm_ms = self._cuda(call, prepare, flush=False)[0] if warm else None
        return Timing(cold_ms, warm_ms, host_ms)

    def _cpu(self, call: Callable[[], object], prepare: Callable[[], object]) -> float:
        prepare()
        self._flush.fill_(1)
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3

    def _cuda(
        self, call: Callable[[], object], prepare: Callable[[], object], *, flush: bool
    ) -> tuple[float, float | None]:
        prepare()
        if flush:
            self._flush.fill_(1)
        torch.cuda.synchronize(self.device)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(HEAD_START)
        start.record()
        begun = time.perf_counter()
        call()
        host_ms = (time.perf_counter() - begun) * 1e3
        end.record()
        waited = start.query()
        end.synchronize()
        return float(start.elapsed_time(end)), None if waited else host_ms


def cache_bytes(device: torch.device) -> int:
    """Return the size of the last-level cache, or 32 MiB where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [_sysfs_bytes(path) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max(sizes, default=32 * 2**20)


def _sysfs_bytes(path: Path) -> int:
    text = path.read_text().strip()
    unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
    return int(text.rstrip("KMG")) * unit
