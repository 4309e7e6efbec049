"""Phases: names for the parts of an attention call, marked as ranges that a profiler sees."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd import profiler

from attnbench.kernels.errors import unknown_name

PHASES = (
    "permute",
    "pool",
    "score",
    "select",
    "index",
    "gather",
    "attend",
    "qk",
    "softmax",
    "av",
    "merge",
    "unpermute",
    "branch",
    "communicate",
)
PARENTS = {"qk": "attend", "softmax": "attend", "av": "attend"}
"""Phases that are parts of another phase, and that phase."""

PREFIX = "attnbench::"
"""The beginning of the names of all ranges."""

_OFF = nullcontext()


def phase(name: str) -> AbstractContextManager[None]:
    """Mark what runs inside the block as the phase ``name``, one of PHASES.

    Under torch.profiler, it is a range named "attnbench::<name>" on the thread that opens it and, once CUDA is in use,
    also an NVTX range. Without a profiler, and while torch.compile traces, it does nothing.

    Raises:
        BadInput: if there is no phase of that name.
    """
    if name not in PHASES:
        raise unknown_name("phase", name, PHASES)
    if torch.compiler.is_compiling():
        return nullcontext()  # made here, because torch.compile can follow the class but not an object from outside
    return Range(name) if profiler._is_profiler_enabled else _OFF


def during(direction: str) -> AbstractContextManager[None]:
    """Mark a whole "forward" or "backward" pass, so that profiles know to which pass a phase belongs."""
    return Range(direction) if profiler._is_profiler_enabled else _OFF


class Range(AbstractContextManager[None]):
    """The range "attnbench::<name>" for torch.profiler and, on CUDA, for NVTX. Any name is accepted."""

    __slots__ = ("_nvtx", "_recorded")

    def __init__(self, name: str) -> None:
        self._recorded = profiler.record_function(PREFIX + name)
        self._nvtx = torch.cuda.is_initialized()

    def __enter__(self) -> None:
        self._recorded.__enter__()
        if self._nvtx:
            torch.cuda.nvtx.range_push(self._recorded.name)

    def __exit__(self, *exception: Any) -> None:
        if self._nvtx:
            torch.cuda.nvtx.range_pop()
        self._recorded.__exit__(*exception)
