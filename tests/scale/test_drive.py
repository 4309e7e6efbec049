"""The driver of a suite: order, slots, what was measured before, and workers that end badly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnbench.bench.estimate import Estimate
from attnbench.bench.suite import SuiteCell
from attnbench.kernels.errors import BadInput
from attnbench.results.journal import JOURNAL
from attnbench.scale.drive import drive, tasks_of
from attnbench.scale.task import Ended, ended_before, keep, token_of

Cell = Callable[..., SuiteCell]


def test_a_slot_has_one_worker_and_a_cell_waits_for_those_it_needs(
    tmp_path: Path, cell: Cell, hand_engine: Any, notes: Any
) -> None:
    cells = [cell("a"), cell("b", ["a"]), cell("c"), cell("d"), cell("e", ["b", "d"])]
    engine = hand_engine(slots=2)
    ended = drive(engine, cells, tmp_path, notes)
    assert list(ended) == ["a", "b", "c", "d", "e"]
    assert sorted(engine.begun) == ["a", "b", "c", "d", "e"]
    assert engine.most == 2
    assert engine.begun.index("a") < engine.begun.index("b")
    assert engine.begun[-1] == "e"
    assert notes.steps[0] == "0 of 5 cells done, measuring or queued: a, c"
    assert notes.notes == []


def test_without_slots_all_that_can_begin_are_handed_over(
    tmp_path: Path, cell: Cell, hand_engine: Any, notes: Any
) -> None:
    engine = hand_engine()
    drive(engine, [cell(name) for name in "abcd"], tmp_path, notes)
    assert engine.most == 4
    assert "a, b, c and 1 more" in notes.steps[0]


def test_a_cell_that_is_done_is_not_begun_again_and_one_that_failed_is(
    tmp_path: Path, cell: Cell, hand_engine: Any, notes: Any
) -> None:
    cells = [cell("done"), cell("failed"), cell("deleted")]
    for name, task in tasks_of(cells, tmp_path).items():
        keep(task, Ended(exit_code=1 if name == "failed" else 0, host="there"))
        if name != "deleted":
            task.place.mkdir()
            (task.place / JOURNAL).touch()
    engine = hand_engine()
    ended = drive(engine, cells, tmp_path, notes)
    assert engine.begun == ["failed", "deleted"]
    assert [(name, how.exit_code) for name, how in ended.items()] == [("done", 0), ("failed", 0), ("deleted", 0)]


def test_a_worker_that_left_nothing_is_a_verdict_with_its_last_words(
    tmp_path: Path, cell: Cell, hand_engine: Any, notes: Any
) -> None:
    (task,) = tasks_of([cell("a")], tmp_path).values()
    task.log.parent.mkdir(exist_ok=True)
    task.log.write_text("round 1\nCUDA error: an illegal memory access\n")
    lost = Ended(exit_code=1, verdict="crashed", reason="its worker was killed by SIGKILL")
    ended = drive(hand_engine(ends={"a": lost}), [cell("a"), cell("b")], tmp_path, notes)
    assert ended["a"].reason == (
        "its worker was killed by SIGKILL; its last words: CUDA error: an illegal memory access"
    )
    assert ended_before(task) == ended["a"]
    assert ended["b"].exit_code == 0
    assert notes.notes == [f"a: {ended['a'].reason}"]


def test_a_folder_that_is_not_shared_ends_the_suite(tmp_path: Path, cell: Cell, hand_engine: Any, notes: Any) -> None:
    blind = Ended(exit_code=2, reason="worker 'n7' does not share the folder", host="n7", unshared=True)
    engine = hand_engine(ends={"a": blind})
    with pytest.raises(BadInput, match="worker 'n7' does not share the folder"):
        drive(engine, [cell("a"), cell("b")], tmp_path, notes)
    assert engine.stopped == ["b"]


def test_an_interrupt_stops_the_workers(tmp_path: Path, cell: Cell, hand_engine: Any, notes: Any) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    engine = hand_engine()
    with pytest.raises(KeyboardInterrupt):
        drive(engine, [cell("a"), cell("b")], tmp_path, notes, sleep=interrupt)
    assert engine.stopped == ["a", "b"]


def test_the_time_left_is_that_of_all_cells_over_all_workers(
    tmp_path: Path, cell: Cell, hand_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float | None] = []

    class Left:
        def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
            seen.append(seconds_left)

        def note(self, text: str) -> None: ...

        def started(self, folder: str) -> None: ...

    cells = [cell(name) for name in "abcd"]
    known = {each.name: Estimate(2, 60.0, 600.0) for each in cells}
    drive(hand_engine(slots=2, width=2), cells, tmp_path, Left(), known)
    assert seen[0] == 120.0
    drive(hand_engine(slots=2, width=2), cells, tmp_path / "other", Left(), {"a": known["a"]})
    assert seen[-1] is None
    seen.clear()
    drive(hand_engine(width=1), cells, tmp_path / "queued", Left(), known)  # all are handed over, and one runs
    assert seen[0] == 240.0
    seen.clear()
    drive(hand_engine(), cells, tmp_path / "unknown", Left(), known)
    assert set(seen) == {None}


def test_the_token_of_a_folder_stays_and_another_folder_has_another(tmp_path: Path) -> None:
    assert token_of(tmp_path / "a") == token_of(tmp_path / "a") != token_of(tmp_path / "b")
