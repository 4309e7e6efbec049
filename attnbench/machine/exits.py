"""Code of another package that ends this process from within: ``os._exit(0)`` would look like success."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

leave = os._exit
"""Ends this process at once, whichever block is open: for a thread whose main thread waits where nothing reaches it."""


class LeftProcess(SystemExit):
    """Code called ``os._exit`` where that is an error of what it was called for."""


_errors: list[None] = []
"""One for each block of ``exits_as_errors`` that is open."""


@contextmanager
def exits_as_errors() -> Iterator[None]:
    """Let ``os._exit`` raise ``LeftProcess`` in this block, where ``no_silent_exit`` is around it."""
    _errors.append(None)
    try:
        yield
    finally:
        _errors.pop()


@contextmanager
def no_silent_exit(say: Callable[[str], object]) -> Iterator[None]:
    """Let ``os._exit`` in this block tell who called it, and end the process with a code other than 0.

    Forked children end as they would otherwise: multiprocessing ends its own so.

    Args:
        say: is told what happened, in a sentence.
    """
    end, mine = os._exit, os.getpid()

    def told(status: int) -> NoReturn:
        if os.getpid() == mine:
            if _errors:
                raise LeftProcess(status)
            caller = sys._getframe(1)
            where = f"{caller.f_code.co_filename}, line {caller.f_lineno}"
            say(f"code of another package ({where}) called os._exit({status!r}): that is no result")
            status = status or 1
        end(status)

    os._exit = told
    try:
        yield
    finally:
        os._exit = end
