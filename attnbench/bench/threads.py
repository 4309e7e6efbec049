"""Whether a call leaves work to other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def count_threads(call: Callable[[], T]) -> tuple[T, int]:
    """Make a call. Return what it gives, and how many more threads Python has after it than before.

    A clock times this, not the other way round: what a profiler starts when it begins to record is no work of the call.
    A thread that ends meanwhile hides one that begins.
    """
    before = threading.active_count()
    given = call()
    return given, threading.active_count() - before
