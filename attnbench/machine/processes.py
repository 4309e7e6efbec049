"""Other processes: when they end, and how all that one has started ends with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

DYING = 5.0
"""Seconds that killed processes get to be gone. The system may take a moment to give their memory back."""


@contextlib.contextmanager
def end_of(process: subprocess.Popen[bytes]) -> Iterator[tuple[int, ...]]:
    """Yield a handle that is ready when the process ends, where the system has such."""
    try:
        handle = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        yield ()
        return
    try:
        yield (handle,)
    finally:
        os.close(handle)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started as the leader of a group, with all of its group, and wait until they are gone.

    Of the others of the group only the system knows when they are. It is asked for at most ``DYING`` seconds.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    limit = time.monotonic() + DYING
    while _has_work(process.pid) and time.monotonic() < limit:
        time.sleep(0.01)


def marked(mark: str) -> dict[str, str]:
    """Return the environment for a process that ``end_marked`` is to find, with all that it starts."""
    return {**os.environ, _MARK: mark}


def end_marked(mark: str) -> None:
    """Kill every process that was started with a mark, by whomever, also those that left the group. On Linux only."""
    wanted = f"{_MARK}={mark}".encode()
    for place in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it is gone by now, or another user's
            if wanted in place.read_bytes().split(b"\0"):
                os.kill(int(place.parent.name), signal.SIGKILL)


_MARK = "ATTNBENCH_MARK"
"""An environment variable: what a process starts inherits it, whatever group or session it goes to."""


def _has_work(group: int) -> bool:
    """Whether a process of a group is there that has not ended. Those that have may stay listed for ever."""
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    listed = list(Path("/proc").glob("[0-9]*/stat"))
    return not listed or any(_works_in(group, stat) for stat in listed)


def _works_in(group: int, stat: Path) -> bool:
    """Whether the process of a file /proc/PID/stat belongs to a group and has not ended."""
    try:
        state, _, of = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
    except (OSError, ValueError):  # it is gone by now
        return False
    return int(of) == group and state not in "ZX"
