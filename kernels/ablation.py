"""Builds of our attention kernel with parts left out, which show how long each part takes.

Their results are meaningless.

An attention call never runs one. While ``recorded`` is open, it records its launches, and a recorded launch can be
repeated in any build with outputs of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from torch import Tensor

Part = Literal["qk", "softmax", "whole"]

UP_TO: dict[Part, int] = {"qk": 1, "softmax": 2, "whole": 3}
"""The compile-time constant ``UP_TO`` of the kernels, for each build.

1: only the scores. The products of all steps are added up in one accumulator, and the maximum of each row is stored as
its log-sum-exp, so that the compiler does not remove them. No exponentials, no element rule, no load of V, no output.
2: scores and softmax, the log-sum-exp as in the whole kernel. No load of V, no second product, no output.
3: everything.
"""

Launch = Callable[[Part], tuple[Tensor, Tensor]]
"""Repeats one launch of the attention kernel in a build, and returns outputs of its own."""

_noted: ContextVar[list[Launch] | None] = ContextVar("attend launches", default=None)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Record the forward launches of our attention kernel that are made inside the block, in order.

    A record keeps the tensors that the launch read, so that it can be repeated later.
    """
    launches: list[Launch] = []
    token = _noted.set(launches)
    try:
        yield launches
    finally:
        _noted.reset(token)


def is_recording() -> bool:
    """Whether launches are being recorded."""
    return _noted.get() is not None


def note(launch: Launch) -> None:
    """Record a launch if ``recorded`` is open."""
    launches = _noted.get()
    if launches is not None:
        launches.append(launch)
