"""The profiler's raw events, as far as attribution needs them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from attnbench.kernels.phases import PREFIX

Kind = Literal["range", "launch", "work", "operator", "gradient", "memory"]

_LAUNCH = re.compile(r"cu(da)?(Launch(?!HostFunc|Attribute)|GraphLaunch|Mem(cpy|set)(?!.*(Attribute|Params)))")
_IDLE = ("gpu_user_annotation", "cuda_sync", "cuda_event", "overhead")
_RUNTIME = re.compile(r"cu(da)?[A-Z]")
_WAIT = re.compile(r"(Context|Event|Stream) (Sync|Wait)")
_BACKWARD_SCOPE = 1
_FRAME = "autograd::engine::"
"""Prefix of what autograd's engine does around a gradient; these events carry the gradient's sequence number."""

_NO_THREAD = 2**62  # torch marks events that none of its threads made with numbers above this
UNKNOWN_THREAD = -1
"""Stands for the thread of a launch whose thread the profiler does not report."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a profile; times in nanoseconds of one clock.

    Attributes:
        kind: "range" is one of ours, on the CPU; "launch" the CPU's call that makes the GPU work, "work" a kernel, copy
            or fill on the GPU; "operator" an operator of the forward pass and "gradient" its node in the backward pass;
            "memory" an allocation of the GPU's memory or, with a negative size, its end.
        name: as the profiler has it; ranges without the prefix "attnbench::".
        start, end: when.
        thread: the CPU thread, or ``UNKNOWN_THREAD``; meaningless for "work".
        correlation: the number that a launch and its work share, above 0.
        sequence: the number that an operator and its gradient share, from 0.
        forward_thread: for a gradient, the thread of its operator.
        nbytes: size of an allocation.
    """

    kind: Kind
    name: str
    start: int
    end: int
    thread: int = 1
    correlation: int = 0
    sequence: int = -1
    forward_thread: int = 0
    nbytes: int = 0


def read_events(raw: Iterable[Any]) -> list[Event]:
    """Return what ``torch.profiler`` recorded, from ``profiler.kineto_results.events()``, in order of start."""
    raw = [e for e in raw if not _ask(e, "is_hidden_event", False)]
    threads = _Threads.of(e for e in raw if _is_operator(e))
    events = [event for e in raw if (event := _read(e, threads)) is not None]
    return sorted(events, key=lambda event: (event.start, -event.end))


@dataclass(frozen=True)
class _Threads:
    """How to find the thread of a launch: by the operator it was made in, or by the system's number of the thread.

    A launch does not carry its thread, and a launch that a library makes outside all operators belongs to no operator.
    """

    by_operator: Mapping[int, int]
    by_system: Mapping[int, int]

    @classmethod
    def of(cls, operators: Iterable[Any]) -> _Threads:
        operators = list(operators)
        return cls(
            {e.correlation_id(): e.start_thread_id() for e in operators},
            {e.device_resource_id(): e.start_thread_id() for e in operators},
        )

    def of_launch(self, e: Any) -> int:
        linked = e.linked_correlation_id()
        if linked in self.by_operator:
            return self.by_operator[linked]
        return self.by_system.get(e.device_resource_id(), UNKNOWN_THREAD)


def _ask(e: Any, what: str, default: Any) -> Any:
    """Return what an event reports, or the default where this version of torch does not report it."""
    return getattr(e, what, lambda: default)()


def _on_cpu(e: Any) -> bool:
    return bool(e.device_type().name == "CPU")


def _is_operator(e: Any) -> bool:
    numbered = e.correlation_id() > 0 and e.linked_correlation_id() == 0 and 0 <= e.start_thread_id() < _NO_THREAD
    return bool(_on_cpu(e) and numbered and not _RUNTIME.match(e.name()))


def _read(e: Any, threads: _Threads) -> Event | None:
    name, start, end, thread = e.name(), e.start_ns(), e.end_ns(), e.start_thread_id()
    if name == "[memory]":
        return None if _on_cpu(e) else Event("memory", name, start, start, thread, nbytes=e.nbytes())
    if not _on_cpu(e):
        idle = e.is_user_annotation() or name.startswith(PREFIX) or _WAIT.match(name)
        if idle or _ask(e, "activity_type", "") in _IDLE:
            return None  # the shadow of a range on the GPU, or time in which nothing runs
        return Event("work", name, start, end, correlation=e.correlation_id())
    if e.is_user_annotation():
        return Event("range", name.removeprefix(PREFIX), start, end, thread) if name.startswith(PREFIX) else None
    if _LAUNCH.match(name):
        return Event("launch", name, start, end, threads.of_launch(e), correlation=e.correlation_id())
    if e.sequence_nr() < 0 or name.startswith(_FRAME):
        return None
    if e.scope() == _BACKWARD_SCOPE:
        numbers = {"sequence": e.sequence_nr(), "forward_thread": e.fwd_thread_id()}
        return Event("gradient", name, start, end, thread, **numbers)
    return Event("operator", name, start, end, thread, sequence=e.sequence_nr())
