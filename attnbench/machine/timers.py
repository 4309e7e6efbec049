"""Ways to time one call: the wall clock, CUDA events with a head start, and the replay of a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.machine.clock import CLOCK, Clock, ClockFault, ClockStood
from attnbench.results.records import cells as schema

HEAD_START = 10**8
"""GPU cycles, about 50 ms, that the GPU is kept waiting while the CPU enqueues a call. Ours take 2 to 13 ms."""

Action = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one call.

    Attributes:
        cold_ms: with a cold cache.
        warm_ms: of the same call right after; None where it is not taken.
        host_ms: what the CPU took to enqueue the cold call; None where that is the call itself, or it waited for the
            device, or the timer does not see it.
    """

    cold_ms: float
    warm_ms: float | None = None
    host_ms: float | None = None


class Timer(Protocol):
    """Takes one sample of a call."""

    @property
    def name(self) -> schema.Timer:
        """As after ``--timer`` and in the rows."""

    def time(self, call: Action, prepare: Action, flush: Action, *, warm: bool) -> Timing:
        """Time a call.

        Args:
            call: what is timed.
            prepare: run untimed before each call.
            flush: makes the cache cold; run untimed after ``prepare``.
            warm: whether a warm sample is wanted too, where the timer takes one.

        Raises:
            ClockFault: if a clock gave something impossible.
            Unsupported: if this timer cannot time this call.
        """


@dataclass(frozen=True)
class Wall:
    """The wall clock around one call, and on a GPU around the wait for it. No warm samples."""

    device: torch.device
    clock: Clock = CLOCK
    name: schema.Timer = "wall"

    def time(self, call: Action, prepare: Action, flush: Action, *, warm: bool, meet: Action | None = None) -> Timing:
        """Time a call, as ``Timer`` says; ``meet`` comes right before the clock starts."""
        prepare()
        flush()
        finish(self.device)
        if meet is not None:
            meet()
            finish(self.device)
        start = self.clock.now()
        call()
        finish(self.device)
        return Timing(above_zero(self.clock.since(start) * 1e3))


@dataclass(frozen=True)
class Events:
    """CUDA events around a call that is enqueued while the GPU is kept busy.

    So the GPU never waits for the CPU, as in a model, where the CPU runs ahead. What enqueuing takes is told apart. A
    call that waits for the device pays for its waits all the same.
    """

    device: torch.device
    clock: Clock = CLOCK
    name: schema.Timer = "events"

    def time(self, call: Action, prepare: Action, flush: Action, *, warm: bool, meet: Action | None = None) -> Timing:
        """Time a call, as ``Timer`` says; ``meet`` lets the GPU wait right before the first event."""
        cold_ms, host_ms = self._once(call, prepare, flush, meet)
        return Timing(cold_ms, self._once(call, prepare, lambda: None, meet)[0] if warm else None, host_ms)

    def _once(self, call: Action, prepare: Action, flush: Action, meet: Action | None) -> tuple[float, float | None]:
        prepare()
        flush()
        finish(self.device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(HEAD_START)
        if meet is not None:  # behind the sleep: GPUs of unlike clocks do not wake together
            meet()
        start.record()
        begun = self.clock.now()
        call()
        host_ms = self.clock.since(begun) * 1e3
        end.record()
        waited = start.query()
        end.synchronize()
        return above_zero(float(start.elapsed_time(end))), None if waited else host_ms


@dataclass(frozen=True)
class Graph:
    """CUDA events around the replay of a call that was captured in a CUDA graph: kernels without any launch by the CPU.

    Each sample captures its call anew, since calls differ in their tensors.
    """

    device: torch.device
    name: schema.Timer = "graph"

    def time(self, call: Action, prepare: Action, flush: Action, *, warm: bool) -> Timing:
        """Time a call, as ``Timer`` says."""
        graph = self._capture(call, prepare)
        graph.replay()  # the first replay also sends the graph to the GPU
        cold_ms = self._replay(graph, flush)
        return Timing(cold_ms, self._replay(graph, lambda: None) if warm else None)

    def _capture(self, call: Action, prepare: Action) -> torch.cuda.CUDAGraph:
        prepare()
        aside = torch.cuda.Stream(self.device)
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):  # what runs only once must not be captured
            call()
        torch.cuda.current_stream(self.device).wait_stream(aside)
        prepare()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise Unsupported(f"--timer graph: this call cannot be captured in a CUDA graph: {why}") from error
        return graph

    def _replay(self, graph: torch.cuda.CUDAGraph, flush: Action) -> float:
        # Without preparing: a replay writes to the gradients that were captured, and attaches none in place of them.
        flush()
        finish(self.device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return above_zero(float(start.elapsed_time(end)))


def finish(device: torch.device) -> None:
    """Wait for a GPU; a CPU has nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def above_zero(ms: float) -> float:
    """Return a duration.

    Raises:
        ClockFault: if it cannot be one.
    """
    if ms > 0:
        return ms
    raise ClockFault(f"the clock ran backwards by {-ms:.3g} ms") if ms < 0 else ClockStood()


def check_timer(name: str, device: torch.device) -> None:
    """Check that a timer exists and can time this kind of device.

    Raises:
        BadInput: if not.
    """
    if name not in schema.TIMERS:
        raise BadInput(f"--timer {name!r} is none of {', '.join(schema.TIMERS)}")
    if device.type != "cuda" and name != "wall":
        raise BadInput(f"--timer {name!r} times a GPU, and this runs on a CPU: leave it out, or take --timer wall")
