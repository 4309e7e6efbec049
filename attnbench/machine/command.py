"""The command line that is recorded with a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_words: ContextVar[tuple[str, ...] | None] = ContextVar("words", default=None)


def typed_command() -> list[str]:
    """Return the command line as it was typed: the one that ``recorded_as`` handed in, else this process's own."""
    words = _words.get()
    return list(sys.argv if words is None else words)


@contextmanager
def recorded_as(words: Sequence[str]) -> Iterator[None]:
    """Let runs that begin in this block record ``words`` as their command: the program's name and what follows it."""
    before = _words.set(tuple(words))
    try:
        yield
    finally:
        _words.reset(before)
