"""Runs that take turns: one works at a time, the same cell follows itself, and nobody waits for one that is gone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from attnbench.bench.gate.conductor import Conductor, order_of_round
from attnbench.inputs.seeds import SETS

PROGRAM = """
import os, sys
from attnbench.bench.in_turns import InTurns
name, address, log, *cells = sys.argv[1:]
handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
say = lambda *words: os.write(handle, (" ".join(map(str, (name, *words))) + "\\n").encode())
turns = InTurns(address)
say("begin", turns.begin())
say("least", turns.least("heads", len(cells)))
for number in range(4):
    for cell in cells if number % 2 == 0 else reversed(cells):
        given = turns.turn("", number, cell)
        if cell == "dies":
            os._exit(3)
        say("turn", number, cell, given)
        say("done", number, cell)
"""


SUITE = """
import os, sys
from attnbench.bench.in_turns import InTurns
name, address, log, *calls = sys.argv[1:]
handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
say = lambda *words: os.write(handle, (" ".join(map(str, (name, *words))) + "\\n").encode())
turns = InTurns(address)
for call in calls:
    turns.begin()
    say("least", turns.least("rounds", 3 if name == "base" else 4))
    for cell in call.split():
        for number in range(3):
            given = turns.turn(cell, number, cell, alone=cell.startswith("own"))
            say("turn", number, cell, given)
"""
"""Runs of a suite: each word of a call is a cell with a process of its own."""


def conduct(tmp_path: Path, runs: dict[str, Sequence[str]], program: str = PROGRAM) -> list[list[str]]:
    """Let runs take turns; return what they said, in order."""
    log = tmp_path / "log"
    with tempfile.TemporaryDirectory() as short, Conductor(Path(short), tuple(runs), "token") as conductor:
        processes = {
            name: subprocess.Popen(
                [sys.executable, "-c", program, name, str(conductor.address(name)), str(log), *cells]
            )
            for name, cells in runs.items()
        }
        thread = threading.Thread(target=conductor.conduct, args=(processes,), daemon=True)
        thread.start()
        thread.join(300)
        assert not thread.is_alive()
        for process in processes.values():
            process.wait()
    return [line.split() for line in log.read_text().splitlines()]


def turns_of(said: list[list[str]]) -> Iterator[tuple[str, int, str, str]]:
    for name, what, *rest in said:
        if what == "turn":
            yield name, int(rest[0]), rest[1], rest[2]


def test_one_run_works_at_a_time_and_a_cell_follows_itself(tmp_path: Path) -> None:
    said = conduct(tmp_path, {"base": ["x", "y", "z"], "head": ["x", "y", "z"]})
    for (name, what, *cell), (other, then, *after) in pairwise(said):
        if what == "turn":
            assert (name, "done", cell[:2]) == (other, then, after), "another run began before this one was done"
    turns = list(turns_of(said))
    assert len(turns) == 24
    for one, two in zip(turns[::2], turns[1::2], strict=True):
        assert one[1:] == two[1:], "both runs time one cell in one round, on one input set"
        assert {one[0], two[0]} == {"base", "head"}
    first = [name for name, *_ in turns[::2]]
    assert first.count("base") == first.count("head") == 6, "each goes first as often as the other"
    for (name, number, *_), (other, then, *_) in pairwise(turns):
        assert name != other or number != then, "a run takes two turns in a row, on caches that it has just filled"
    sets = [{given for _, number, _, given in turns if number == each} for each in range(4)]
    assert all(len(each) == 1 for each in sets)
    assert len(set().union(*sets[:SETS])) == SETS


def test_runs_agree_on_the_least_that_one_of_them_chose(tmp_path: Path) -> None:
    said = conduct(tmp_path, {"base": ["x", "y", "z"], "head": ["y"]})
    assert {rest[0] for _, what, *rest in said if what == "least"} == {"1"}
    assert {rest[0] for _, what, *rest in said if what == "begin"} == {"token"}


def test_a_cell_that_one_run_lacks_keeps_nobody_waiting(tmp_path: Path) -> None:
    turns = list(turns_of(conduct(tmp_path, {"base": ["x", "y", "z"], "head": ["y", "z"]})))
    assert len(turns) == 20
    apart = []
    for cell in ("y", "z"):
        for number in range(4):
            places = [place for place, each in enumerate(turns) if each[1:3] == (number, cell)]
            assert len(places) == 2
            apart.append(places[1] - places[0])
    assert max(apart) <= 2, "the two runs stay beside each other"


@pytest.mark.parametrize(
    ("base", "head"),
    [
        (["own-x y", "z"], ["y", "z"]),
        (["y own-x", "z"], ["y", "z"]),
        (["y", "own-x", "z"], ["y", "", "z"]),
        (["own-x own-u y own-v", "z"], ["own-w y", "own-s z own-t"]),
    ],
)
def test_what_only_one_run_has_keeps_the_others_in_step(base: list[str], head: list[str], tmp_path: Path) -> None:
    said = conduct(tmp_path, {"base": base, "head": head}, SUITE)
    turns = list(turns_of(said))
    assert len(turns) == 3 * sum(len(call.split()) for call in (*base, *head))
    for cell in ("y", "z"):
        places = [place for place, each in enumerate(turns) if each[2] == cell]
        assert len(places) == 6
        for number in range(3):
            one, two = places[2 * number : 2 * number + 2]
            assert {turns[one][0], turns[two][0]} == {"base", "head"}
            assert two == one + 1, "nothing comes between the two calls of a round"
    assert {rest[0] for _, what, *rest in said if what == "least"} == {"3"}, "both calls of a suite agree"


@pytest.mark.parametrize("cells", [["dies"], ["x", "dies"]])
def test_a_run_that_dies_keeps_nobody_waiting(cells: list[str], tmp_path: Path) -> None:
    turns = list(turns_of(conduct(tmp_path, {"base": cells, "head": ["x", "y"]})))
    assert sum(name == "head" for name, *_ in turns) == 8


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_orders_of_rounds_treat_all_runs_alike(names: str) -> None:
    orders = [order_of_round(names, number) for number in range(12)]
    for place in range(len(names)):
        counts = Counter(order[place] for order in orders)
        assert [counts[name] for name in names] == [12 // len(names)] * len(names)


def test_three_runs_take_turns(tmp_path: Path) -> None:
    turns = list(turns_of(conduct(tmp_path, {"a": ["x", "y"], "b": ["x", "y"], "c": ["x", "y"]})))
    for place in range(0, 24, 3):
        assert {each[0] for each in turns[place : place + 3]} == {"a", "b", "c"}
        assert len({each[1:] for each in turns[place : place + 3]}) == 1
