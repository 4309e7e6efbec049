"""Builds of our attention kernel with parts left out, to see how long each part takes. Their results are meaningless.

An attention call never runs one. It only notes its launches while ``recorded`` is open, and a launch that was noted can
be repeated in any build, on outputs of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from torch import Tensor

Part = Literal["qk", "softmax", "whole"]

UP_TO: dict[Part, int] = {"qk": 1, "softmax": 2, "whole": 3}
"""The compile-time constant ``UP_TO`` of the kernels, by how far a build goes.

1: only the scores. Products of all steps are added up in one accumulator, and each row's maximum of that is stored as
its log-sum-exp, so that the compiler keeps them. No exponentials, no element rule, no load of V, no output.
2: scores and softmax, the log-sum-exp as in the whole kernel. No load of V, no second product, no output.
3: everything.
"""

Launch = Callable[[Part], tuple[Tensor, Tensor]]
"""Repeats one launch of the attention kernel in a build, and returns outputs of its own."""

_noted: ContextVar[list[Launch] | None] = ContextVar("attend launches", default=None)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Note the forward launches of our attention kernel that are made inside, in order.

    They keep the tensors that they read, so that they can be repeated later.
    """
    launches: list[Launch] = []
    token = _noted.set(launches)
    try:
        yield launches
    finally:
        _noted.reset(token)


def is_recording() -> bool:
    """Whether launches are noted."""
    return _noted.get() is not None


def note(launch: Launch) -> None:
    """Note a launch where ``recorded`` is open."""
    launches = _noted.get()
    if launches is not None:
        launches.append(launch)
