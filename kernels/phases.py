"""Phases: names for the parts of an attention call, as ranges that a profiler sees."""

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
)
PARENTS = {"qk": "attend", "softmax": "attend", "av": "attend"}
"""The phases that are parts of another, and of which."""

PREFIX = "attnbench::"
"""What the names of all ranges begin with."""

_OFF = nullcontext()


def phase(name: str) -> AbstractContextManager[None]:
    """Mark what runs inside as the phase ``name``, one of PHASES.

    Under torch.profiler it is a range named "attnbench::<name>" on the thread that opens it, and an NVTX range too once
    CUDA is in use. Without a profiler, and while torch.compile traces, it does nothing.

    Raises:
        BadInput: if there is no phase of that name.
    """
    if name not in PHASES:
        raise unknown_name("phase", name, PHASES)
    if torch.compiler.is_compiling():
        return nullcontext()  # made here: torch.compile follows the class, not an object from outside
    return Range(name) if profiler._is_profiler_enabled else _OFF


def during(direction: str) -> AbstractContextManager[None]:
    """Mark a whole "forward" or "backward" pass: profiles tell by it which pass a phase is in."""
    return Range(direction) if profiler._is_profiler_enabled else _OFF


class Range(AbstractContextManager[None]):
    """The range "attnbench::<name>", whatever the name, for torch.profiler and on CUDA for NVTX."""

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
