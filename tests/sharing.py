"""One GPU for tests that run side by side: some need it alone, because they compare times or profile."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def sharing(folder: Path, *, alone: bool) -> Iterator[None]:
    """Wait until a test may begin beside those of other processes, and keep those out that may not run beside it.

    Args:
        folder: a folder that the processes share.
        alone: keep all others out. They wait at the gate from then on, so that this one's turn comes.
    """
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    own = f"attnbench-gpu-{os.getuid()}"  # the files of another user could not be opened
    with (folder / f"{own}.gate").open("a") as gate, (folder / f"{own}.lock").open("a") as lock:
        fcntl.flock(gate, kind)
        fcntl.flock(lock, kind)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # a process that was forked meanwhile may have it open
