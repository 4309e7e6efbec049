"""``os._exit`` by code of other packages: it is told, and never looks like success."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from attnbench.machine.exits import LeftProcess, exits_as_errors, no_silent_exit

WATCHED = """
import os, sys
from attnbench.machine.exits import no_silent_exit
with no_silent_exit(lambda text: print(text, flush=True)):
    {body}
os._exit(0)
"""


def ended(body: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", WATCHED.format(body=body)], capture_output=True, text=True)
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize(("status", "code"), [(0, 1), (3, 3)])
def test_it_is_told_and_is_no_success(status: int, code: int) -> None:
    assert ended(f"os._exit({status})") == (
        code,
        f"code of another package (<string>, line 5) called os._exit({status}): that is no result\n",
    )


def test_it_is_an_error_of_what_was_called() -> None:
    with no_silent_exit(print), pytest.raises(LeftProcess), exits_as_errors():
        os._exit(0)


def test_a_forked_child_ends_as_it_would_otherwise() -> None:
    fork = "child = os.fork()\n    if not child: os._exit(0)\n    print(os.waitpid(child, 0)[1])"
    assert ended(fork) == (0, "0\n")


def test_afterwards_nothing_is_changed() -> None:
    before = os._exit
    with no_silent_exit(print):
        assert os._exit is not before
    assert os._exit is before
