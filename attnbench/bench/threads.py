"""Whether a call leaves work to other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def count_threads(call: Callable[[], T]) -> tuple[T, int]:
    """Make a call. Return what it gives, and by how many threads of Python there are more than before.

    To be called within what a clock times: a profiler, a compiler or a test runner may start threads of its own beside.
    """
    before = threading.active_count()
    given = call()
    return given, threading.active_count() - before
