"""Peak memory of a call beyond its inputs: of the allocator on CUDA, of the process (resident) on Linux."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from attnbench.kernels.errors import BadInput

T = TypeVar("T")


def measure_peak(call: Callable[[], T], device: torch.device) -> tuple[T, int | None]:
    """Run ``call`` and return its result and the peak bytes it took beyond what was there before; None if not readable.

    What the call returns is part of the peak. On the CPU this is the resident set, exact to some MiB.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = call()
        torch.cuda.synchronize(device)
        return result, torch.cuda.max_memory_allocated(device) - before
    try:
        _give_back_free_heap()
        Path("/proc/self/clear_refs").write_text("5")  # sets the resident peak back to the present
        before = _resident("VmRSS")
    except OSError:
        return call(), None
    result = call()
    try:
        return result, max(0, _resident("VmHWM") - before)
    except OSError:
        return result, None


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; that of torch's CPU allocator has no class of its own."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = ("can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


@contextmanager
def lack_told(tell: Callable[[str], str]) -> Iterator[None]:
    """Say in one sentence that memory ran out.

    Args:
        tell: makes the sentence from the first line of what the error says, which may be empty.

    Raises:
        BadInput: if it did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        raise BadInput(tell(next(iter(str(error).strip().splitlines()), ""))) from error


def _give_back_free_heap() -> None:
    """Return freed heap to the system: what the allocator keeps would hide as much of the next call's need."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError as error:
        raise OSError("this C library has no malloc_trim") from error


def _resident(field: str) -> int:
    for line in Path(f"/proc/{os.getpid()}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in the process status")
