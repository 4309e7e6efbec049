"""Stability: the same call on the same inputs, many times. What comes out is compared bit by bit, and within a bound.

A race that spoils one launch in 100 shows in 300 calls with a probability of 95 %.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from attnbench.machine.clock import CLOCK
from attnbench.results.records.cells import Stability

SECONDS = 5.0
"""What repeated calls may take where their number is not given."""

LEAST_CALLS, MOST_CALLS = 3, 30
"""How many calls there are then, the first included."""

GIVEN_CALLS = 300
"""How many ``attnbench check`` makes, and suites of committed tables of a GPU ask for."""

MOST_AHEAD, MOST_HELD = 4, 2 * 2**30
"""How many calls may wait on a GPU to be looked at, and how many bytes their results may have."""

ROW_SLACK = 16.0
"""How many times the tolerance of a head a single row of it may move: rounding is not the same in every row."""


@dataclass(frozen=True, slots=True)
class StabilityCheck:
    """What repeated calls gave.

    Attributes:
        found: "deterministic", the same bits every time; "stable", the same but for rounding; otherwise "unstable".
        calls: how many there were.
        problem: of the first call that rounding does not explain; empty if there is none.
    """

    found: Stability
    calls: int
    problem: str = ""


def check_stability(
    first: Sequence[Tensor],
    again: Callable[[], Sequence[Tensor]],
    tolerances: Sequence[float],
    *,
    calls: int | None,
    seconds: float,
) -> StabilityCheck:
    """Repeat a call and compare its results with the first.

    Args:
        first: output and gradients of the first call, [B, H, N, D] each.
        again: calls once more, on the same inputs.
        tolerances: by tensor, the relative L2 error that rounding explains in one call.
        calls: how many, the first included; None for what fits into SECONDS, from LEAST_CALLS to MOST_CALLS.
        seconds: what a call takes.
    """
    wanted, ahead = calls_wanted(calls, seconds), _calls_ahead(first)
    started, same, made = CLOCK.now(), True, 1
    waiting: deque[_Repeated] = deque()
    while made < wanted or waiting:
        if made < wanted and len(waiting) < ahead:
            results = again()
            made += 1
            if len(results) != len(first):
                return StabilityCheck("unstable", made, f"call {made} on the same inputs gives other gradients")
            waiting.append(_Repeated(made, results, [(x == y).all() for x, y in zip(first, results, strict=True)]))
            continue
        oldest = waiting.popleft()
        for mine, theirs, alike, tolerance in zip(first, oldest.results, oldest.alike, tolerances, strict=True):
            if bool(alike):
                continue
            same = False
            if problem := _moved(mine, theirs, tolerance):
                return StabilityCheck("unstable", made, f"call {oldest.number} on the same inputs {problem}")
        if calls is None and made >= LEAST_CALLS and CLOCK.since(started) > SECONDS:
            wanted = made
    return StabilityCheck("deterministic" if same else "stable", made)


@dataclass(frozen=True, slots=True, eq=False)
class _Repeated:
    """What a call gave, and whether each tensor is the first call's to the last bit, as far as the device has come."""

    number: int
    results: Sequence[Tensor]
    alike: Sequence[Tensor]


def _calls_ahead(first: Sequence[Tensor]) -> int:
    """Return how many calls may wait to be looked at: on a GPU some, so that it does not wait for the CPU."""
    if first[0].device.type == "cpu":
        return 1
    return max(1, min(MOST_AHEAD, MOST_HELD // sum(x.nbytes for x in first)))


def calls_wanted(calls: int | None, seconds: float) -> int:
    """Return how many calls there are, the first included, if one takes ``seconds``; ``calls`` of them where given."""
    return calls if calls is not None else max(LEAST_CALLS, min(MOST_CALLS, int(SECONDS / max(seconds, 1e-9))))


def _moved(first: Tensor, other: Tensor, tolerance: float) -> str:
    """Say how far two results are apart, if rounding in both does not explain it."""
    for item, item_other in zip(first, other, strict=True):
        for head, head_other in zip(item, item_other, strict=True):
            wide = head.double()
            off, size = (wide - head_other.double()).norm(dim=-1), wide.norm(dim=-1)
            mean = size.square().mean().sqrt().clamp(min=1e-150)
            whole = float(off.square().mean().sqrt() / mean)
            row = float((off / size.clamp(min=mean)).max())
            if not whole <= 2 * tolerance:
                return f"differs by {whole:.2g} (relative L2); rounding explains {2 * tolerance:.2g}"
            if not row <= 2 * ROW_SLACK * tolerance:
                return f"differs in a row by {row:.2g} (relative L2); rounding explains {2 * ROW_SLACK * tolerance:.2g}"
    return ""
