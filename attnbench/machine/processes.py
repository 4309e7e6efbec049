"""Other processes: when they end."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator


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
