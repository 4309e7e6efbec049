"""SIGTERM and SIGHUP end what runs as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from attnbench.machine.signals import Stopped, ending_as_interrupts, exit_code, handled, interrupt_of


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """The handlers of a terminal; whoever runs tests in the background ignores some."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_is_an_interrupt_with_a_code_of_its_own(number: int, code: int) -> None:
    def ended() -> None:
        with ending_as_interrupts():
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt) as caught:
        ended()
    assert isinstance(caught.value, Stopped)
    assert exit_code(caught.value) == code == exit_code(interrupt_of(number))
    assert signal.getsignal(number) == signal.SIG_DFL, "handlers are put back"


def test_ctrl_c_keeps_its_code() -> None:
    assert exit_code(KeyboardInterrupt()) == exit_code(interrupt_of(signal.SIGINT)) == 130


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As nohup asks for."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ending_as_interrupts():
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_other_threads_change_no_handler() -> None:
    seen = []

    def look() -> None:
        with handled(lambda number, frame: None, signal.SIGTERM):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
