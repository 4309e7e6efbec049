"""Wait for what another process or thread does: look again and again, and give up only when nothing would help."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 300.0
"""Seconds after which a test gives up, far more than anything takes on a busy machine."""


def until(happened: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait until something has happened, and fail if it does not."""
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit, f"{what} did not come within {seconds:g} s"
        time.sleep(0.01)


def runs(process: int) -> bool:
    """Whether a process exists and is not merely waiting to be forgotten."""
    return _state(process) not in ("", "Z", "X")


def until_gone(process: int, seconds: float = PATIENCE) -> None:
    """Wait until a process has ended, and fail if it does not."""
    until(lambda: not runs(process), f"the end of process {process}", seconds)


def stop(process: int) -> None:
    """Let a process stand still, until it gets SIGCONT."""
    os.kill(process, signal.SIGSTOP)
    until(lambda: _state(process) == "T", f"the stop of process {process}")


def _state(process: int) -> str:
    """The letter that Linux gives the state of a process; empty if there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
