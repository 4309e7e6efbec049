"""One process at a time measures on a GPU: runs that are made at once wait for one another, cell by cell."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attnbench.machine.device import resolve_device


@contextmanager
def hold_gpu(device: str | None, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the current GPU against other processes of attnbench; on a CPU, and where no file can be locked, do nothing.

    Args:
        device: as typed; None takes the GPU where there is one.
        note: told if another process holds it, before this one waits.
    """
    import torch

    if resolve_device(device).type != "cuda":
        yield
        return
    name = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    with holding(Path(tempfile.gettempdir()) / f"attnbench-gpu-{re.sub(r'[^A-Za-z0-9-]', '', name)}.lock", note):
        yield


@contextmanager
def holding(path: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock that is known by a file; the system frees it when this process ends, however that happens."""
    try:
        handle = _opened(path)
    except OSError:  # measuring without a lock is better than not at all
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("waiting for the GPU: another process of attnbench measures on it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    try:  # first without O_CREAT, with which some systems refuse the file of another user
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
