"""Tell torch.compile which of our functions it may call while it traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Marked = TypeVar("Marked", bound=Callable[..., object])


def constant(function: Marked) -> Marked:
    """Let torch.compile call ``function`` instead of tracing it, and take what it returns as a constant.

    For what does not change within a process, and for functions of numbers, strings, tuples of them and devices: of
    those torch.compile can tell when they change.
    """
    # The mark of torch.compiler.assume_constant_result; calling that imports the whole compiler, over a second.
    function.__dict__["_dynamo_marked_constant"] = True
    return function
