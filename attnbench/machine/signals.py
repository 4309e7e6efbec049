"""Let SIGTERM and SIGHUP end what runs as Ctrl-C does: schedulers, containers and closed terminals send them."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PR_SET_PDEATHSIG = 1

Handler = Callable[[int, FrameType | None], object]


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C's asks this process to end. It is handled as an interrupt is.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return the exit code of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (interrupt.number if isinstance(interrupt, Stopped) else signal.SIGINT)


def interrupt_of(number: int) -> KeyboardInterrupt:
    """Return the interrupt that stands for a signal."""
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)


@contextmanager
def handled(handler: Handler, *numbers: int) -> Iterator[None]:
    """Handle signals by ``handler`` in this block, except those that are ignored, as under nohup.

    Only the main thread can do so; in others nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    taken = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in taken.items():
            signal.signal(number, old)


@contextmanager
def ending_as_interrupts() -> Iterator[None]:
    """Raise ``Stopped`` where SIGTERM or SIGHUP comes in this block."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with handled(stop, signal.SIGTERM, signal.SIGHUP):
        yield


def end_with_parent(parent: int) -> None:
    """Let the system kill this process when its parent is gone, also where a call holds the interpreter.

    On Linux only; elsewhere nothing is changed.

    Args:
        parent: the process that started this one. If another is the parent by now, this process ends at once.
    """
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except AttributeError:
        return
    if os.getppid() != parent:
        os._exit(1)
