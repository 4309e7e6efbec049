"""Calls that are slower by a known share, on purpose: what ``attnbench calibrate`` tries comparisons with."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from attnbench.bench.calls import Call
from attnbench.kernels.errors import BadInput
from attnbench.machine.clock import CLOCK
from attnbench.machine.timers import HEAD_START

_TRIAL_CYCLES = 10**6
"""About half a millisecond of a GPU; long enough to tell its clock within 1 %."""


def slower(call: Call, share: float, device: torch.device) -> Call:
    """Return ``call`` with a delay of ``share`` of its own time at its end; the call itself for a share of 0.

    On a CPU each call is timed while it runs, so its delay is of its own time. On a GPU the delay is enqueued behind
    the call, and ``prepare``, which nothing times, runs the call once more to learn how long it takes.

    Raises:
        BadInput: for a share that is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise BadInput(f"a delay of {share!r} must be a share of a call's time, from 0 to 1, as 0.05")
    if share == 0:
        return call
    return _slower_on_gpu(call, share, device) if device.type == "cuda" else _slower_on_cpu(call, share)


def _slower_on_cpu(call: Call, share: float) -> Call:
    def run() -> Tensor:
        begun = CLOCK.seconds()
        output = call.run()
        end = begun + (1 + share) * (CLOCK.seconds() - begun)
        while CLOCK.seconds() < end:
            pass
        return output

    return dataclasses.replace(call, run=run)


def _slower_on_gpu(call: Call, share: float, device: torch.device) -> Call:
    delay = 0  # GPU cycles

    def prepare() -> None:
        nonlocal delay
        call.prepare()
        before, between, after = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        torch.cuda.synchronize(device)
        torch.cuda._sleep(HEAD_START)  # the call is enqueued meanwhile
        before.record()
        call.run()
        between.record()
        torch.cuda._sleep(_TRIAL_CYCLES)
        after.record()
        after.synchronize()
        delay = round(share * before.elapsed_time(between) / between.elapsed_time(after) * _TRIAL_CYCLES)
        call.prepare()

    def run() -> Tensor:
        output = call.run()
        if delay:
            torch.cuda._sleep(delay)
        return output

    return dataclasses.replace(call, run=run, prepare=prepare)
