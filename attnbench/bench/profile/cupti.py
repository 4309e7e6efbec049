"""The timer ``cupti``: a call timed by the GPU's own record of its kernels, through PyTorch's profiler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, supported_activities

from attnbench.bench.profile.attribute import gpu_calls
from attnbench.bench.profile.call import record_calls
from attnbench.kernels.errors import Unsupported
from attnbench.machine.clock import ClockFault, ClockStood
from attnbench.machine.stopwatch import Stopwatch
from attnbench.machine.timers import Action, Events, Graph, Timer, Timing, Wall, above_zero, check_timer
from attnbench.results.records import cells as schema

ATTEMPTS = 3
"""Recordings of one sample at most: the profiler drops an event now and then."""


@dataclass(frozen=True)
class Cupti:
    """From the start of a call's first kernel to the end of its last, as CUPTI records them.

    Each sample is a profiler session of its own, which first runs the call once unrecorded, since a session may drop
    what comes at its beginning. The GPU is kept waiting until the call is enqueued. There is no warm sample, and the
    time to enqueue is not told: recording lengthens it.
    """

    device: torch.device
    name: schema.Timer = "cupti"

    def time(self, call: Action, prepare: Action, flush: Action, *, warm: bool) -> Timing:
        """Time a call, as ``Timer`` says.

        Raises:
            ClockFault: also if the profiler loses events of every recording.
            ClockStood: if the call launches nothing.
        """
        problem = ""
        for _ in range(ATTEMPTS):
            events, _ = record_calls(call, prepare, self.device, 1, flush=flush)
            calls = gpu_calls(events)
            if len(calls) != 1:
                problem = "the profiler did not record a call"
            elif calls[0].dropped:
                problem = f"the profiler dropped {len(calls[0].dropped)} GPU events of a call"
            elif work := calls[0].work:
                return Timing(above_zero((max(each.end for each in work) - work[0].start) / 1e6))
        raise ClockFault(f"{problem}; of {ATTEMPTS} recordings none was whole") if problem else ClockStood


def make_stopwatch(device: torch.device, timer: str | None) -> Stopwatch:
    """Return the stopwatch of a device.

    Args:
        device: where calls compute.
        timer: as after ``--timer``; None takes CUDA events on a GPU and the wall clock elsewhere.

    Raises:
        BadInput: for an unknown timer, or one that cannot time this device.
        Unsupported: for ``cupti`` where PyTorch's profiler cannot record a GPU.
    """
    if timer is None:
        return Stopwatch(device)
    check_timer(timer, device)
    if timer == "cupti" and ProfilerActivity.CUDA not in supported_activities():
        raise Unsupported("--timer cupti needs CUPTI, and this build of PyTorch has a profiler without it")
    made: dict[str, Timer] = {
        "wall": Wall(device), "events": Events(device), "graph": Graph(device), "cupti": Cupti(device),
    }  # fmt: skip
    return Stopwatch(device, made[timer])
