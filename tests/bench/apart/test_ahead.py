"""Processes that are started before their turn: one task each, none left over, and no harm where one dies waiting."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from attnbench.bench.apart import process
from attnbench.bench.apart.process import Ahead, End, work
from attnbench.bench.apart.task import Task
from attnbench.bench.request import read_request
from attnbench.methods.entries import Entry

Spawned = list[Any]


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> Spawned:
    """The processes that are started, as they are."""
    monkeypatch.setattr(process, "ENOUGH_CORES", 1)
    found: Spawned = []
    new: Callable[..., Any] = process._Spawned.new

    def noted(*, early: bool = False) -> Any:
        found.append(new(early=early))
        return found[-1]

    monkeypatch.setattr(process._Spawned, "new", noted)
    return found


def summary_of(method: str, ahead: Ahead) -> str:
    request = read_request(methods=[Entry(method)], grid="2x4x4", heads=2, head_dim=16, device="cpu")
    heard: list[tuple[str, Any]] = []
    end = work(Task(do="show", request=request, threads=1), 60, lambda *answer: heard.append(answer), ahead)
    assert end == End()
    ((kind, card),) = heard
    assert kind == "card"
    return str(card["summary"])


def test_each_does_one_task(spawned: Spawned) -> None:
    with Ahead(3, "cuda") as ahead:
        summaries = []
        for number, method in enumerate(("sta", "moba", "radial"), 1):
            summaries.append(summary_of(method, ahead))
            assert len(spawned) == min(number + 1, 3)
            assert [each.process.poll() is None for each in spawned] == [False] * number + [True] * (number < 3)
    assert len(set(summaries)) == 3


def test_none_is_left_over(spawned: Spawned) -> None:
    with Ahead(2, "cuda") as ahead:
        summary_of("sta", ahead)
        assert spawned[1].process.poll() is None
    assert spawned[1].process.poll() is not None


def test_one_that_died_while_it_waited_costs_nothing(spawned: Spawned) -> None:
    with Ahead(2, "cuda") as ahead:
        summary_of("sta", ahead)
        spawned[1].process.send_signal(signal.SIGKILL)
        spawned[1].process.wait()
        summary_of("moba", ahead)
    assert len(spawned) == 3


@pytest.mark.parametrize(("device", "cores"), [("cpu", 64), ("cuda", 4)])
def test_none_is_started_where_it_would_disturb(
    device: str, cores: int, spawned: Spawned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "ENOUGH_CORES", 8)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    with Ahead(2, device) as ahead:
        summary_of("sta", ahead)
        assert len(spawned) == 1
