"""What an attention call did: the plan it ran, the kernels it launched, the log-sum-exp it computed on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnbench.kernels.plan import Plan


@dataclass(frozen=True, eq=False)
class Attended:
    """One attention: the plan, its output [B, H, N, D], its log-sum-exp [B, H, N] where the engine computes one."""

    plan: Plan
    output: Tensor
    lse: Tensor | None


@dataclass
class Seen:
    """What was seen of the calls inside ``watching``.

    Attributes:
        plan: of the first attention, None before it.
        output: what its engine returned [B, H, N, D], before the method's ``finish``.
        lse: its log-sum-exp [B, H, N], where the engine computes one.
        engine: the engine's name.
        again: attentions after the first, in their order: those of ``finish``.
        launched: names of kernels and functions, in the order of their first launch.
    """

    plan: Plan | None = None
    output: Tensor | None = None
    lse: Tensor | None = None
    engine: str = ""
    again: list[Attended] = field(default_factory=list)
    launched: dict[str, None] = field(default_factory=dict)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of what ran, sorted."""
        return tuple(sorted(self.launched))


_seen: Seen | None = None
"""Of the whole process: backward passes of a GPU run in a thread of their own."""


@contextmanager
def watching() -> Iterator[Seen]:
    """Note what attention calls do inside. It takes some microseconds a call."""
    global _seen
    before, _seen = _seen, Seen()
    try:
        yield _seen
    finally:
        _seen = before


def is_watching() -> bool:
    """Return whether anyone notes what runs."""
    return _seen is not None


def launched(name: str) -> None:
    """Note that a kernel or function runs."""
    if _seen is not None and not torch.compiler.is_compiling():
        _seen.launched[name] = None


def attended(engine: str, plan: Plan, output: Tensor, lse: Tensor | None) -> None:
    """Note what an engine returned for a plan. An engine that named nothing it launched is named itself."""
    if _seen is None or torch.compiler.is_compiling():
        return
    node = output.grad_fn
    for name in (f"{engine}:attend", *([f"{engine}:{node.name()}"] if node is not None else [])):
        _seen.launched[name] = None
    if _seen.plan is None:
        _seen.plan, _seen.output, _seen.lse, _seen.engine = (
            plan,
            output.detach(),
            None if lse is None else lse.detach(),
            engine,
        )
    else:
        _seen.again.append(Attended(plan, output.detach(), None if lse is None else lse.detach()))
