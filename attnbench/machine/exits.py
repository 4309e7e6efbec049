"""Code of another package that ends this process from within: ``os._exit(0)`` would look like success."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn


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
            say(f"code of another package called os._exit({status!r}): that is no result")
            status = status or 1
        end(status)

    os._exit = told
    try:
        yield
    finally:
        os._exit = end
