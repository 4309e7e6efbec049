"""A process that led a group is gone with all that it started, and what cannot go keeps nobody waiting."""

from __future__ import annotations

import subprocess
from types import ModuleType

import pytest

from attnbench.machine import processes
from attnbench.machine.processes import end_group, end_marked, marked


def leader() -> tuple[subprocess.Popen[bytes], int]:
    """A shell that leads a group, and a process that it has started."""
    shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, process_group=0)
    assert shell.stdout is not None
    with shell.stdout as told:
        return shell, int(told.readline())


def test_a_group_ends_with_its_leader(waiting: ModuleType) -> None:
    shell, child = leader()
    assert waiting.runs(child)
    end_group(shell)
    assert shell.returncode == -9
    waiting.until_gone(child)
    end_group(shell)  # that nobody is left is no error


def test_a_group_is_waited_for_until_none_of_it_has_work(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([True, True, False])
    monkeypatch.setattr(processes, "_has_work", lambda group: next(looks))
    end_group(leader()[0])
    assert next(looks, None) is None


def test_a_process_that_nobody_asks_how_it_ended_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "DYING", 1e6)
    shell, _ = leader()
    other = subprocess.Popen(["sleep", "600"], process_group=shell.pid)
    end_group(shell)
    assert other.poll() == -9, "it had ended, and was listed until it was asked"


def test_a_process_that_left_the_group_is_found_by_its_mark(waiting: ModuleType) -> None:
    words = ["sh", "-c", "setsid sh -c 'echo $$; exec sleep 600' & wait"]
    shell = subprocess.Popen(words, stdout=subprocess.PIPE, process_group=0, env=marked("this one"))
    other = subprocess.Popen(["sleep", "600"], env=marked("another"))
    assert shell.stdout is not None
    with shell.stdout as told:
        child = int(told.readline())
    end_group(shell)
    assert waiting.runs(child)
    end_marked("this one")
    waiting.until_gone(child)
    assert other.poll() is None
    end_marked("another")
    assert other.wait() == -9
