"""Tell torch.compile which of our functions it may call during tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Marked = TypeVar("Marked", bound=Callable[..., object])


def constant(function: Marked) -> Marked:
    """Let torch.compile call ``function`` instead of tracing it, and treat the result as a constant.

    This is for results that do not change within a process, and for functions of numbers, strings, tuples of these, and
    devices, because torch.compile notices when these change.
    """
    # The mark that torch.compiler.assume_constant_result sets. Calling that imports the whole compiler, over a second.
    function.__dict__["_dynamo_marked_constant"] = True
    return function
