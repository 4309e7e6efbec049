"""Time calls on one device: with a cold cache and with a warm one, and back to back as a caller sees them."""

from __future__ import annotations

from pathlib import Path

import torch

from attnbench.machine.clock import CLOCK, Clock
from attnbench.machine.timers import Action, Events, Timer, Timing, Wall, above_zero, finish
from attnbench.results.records import cells as schema

MOST_FLUSH = 256 * 2**20
"""Bytes written at most to make the cache cold."""


class Stopwatch:
    """Times calls on one device. ``prepare`` runs untimed before each call, ``call`` is what is timed.

    The cold cache is made by writing a buffer of twice the last-level cache (at most 256 MiB) before the call. The warm
    sample is taken on CUDA only: there a second call costs little, and phases such as pooling fit the cache.

    Args:
        device: where calls compute.
        how: the timer; by default CUDA events on a GPU and the wall clock elsewhere.
        clock: of the wall.
    """

    def __init__(self, device: torch.device, how: Timer | None = None, clock: Clock = CLOCK) -> None:
        self.device, self.clock = device, clock
        self._how: Timer = how or (Events(device, clock) if device.type == "cuda" else Wall(device, clock))
        self._buffer = torch.empty(min(2 * cache_bytes(device), MOST_FLUSH), dtype=torch.int8, device=device)

    @property
    def timer(self) -> schema.Timer:
        """Name of the timer."""
        return self._how.name

    def time(self, call: Action, prepare: Action = lambda: None, *, warm: bool = True) -> Timing:
        """Take one sample; without ``warm`` only the cold one, for calls that take seconds.

        Raises:
            ClockFault: if a clock gave something impossible.
            Unsupported: if the timer cannot time this call.
        """
        return self._how.time(call, prepare, lambda: self._buffer.fill_(1), warm=warm)

    def time_together(self, call: Action, prepare: Action, meet: Action) -> Timing:
        """Take one cold sample of a call that processes make together.

        Args:
            call, prepare: as of ``time``.
            meet: waits for the others, right before the clock starts; on a GPU it lets the GPU wait.

        Raises:
            ClockFault: if a clock gave something impossible.
        """
        assert isinstance(self._how, Events | Wall)  # group_run.check_group
        return self._how.time(call, prepare, lambda: self._buffer.fill_(1), warm=False, meet=meet)

    def back_to_back(self, call: Action, prepare: Action, count: int) -> float:
        """Return the wall clock of ``count`` calls one after the other, in milliseconds a call.

        A GPU is waited for once, at the end. Whatever the CPU does between its kernels is in the time, and so is
        ``prepare``: it is what a caller without a CUDA graph sees.

        Raises:
            ClockFault: if the clock gave something impossible.
        """
        finish(self.device)
        start = self.clock.now()
        for _ in range(count):
            prepare()
            call()
        finish(self.device)
        return above_zero(self.clock.since(start) * 1e3) / count


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
