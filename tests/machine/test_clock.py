"""The clock: it cannot be replaced later, and it is called what it is when it errs."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import attnbench
from attnbench.machine.clock import CLOCK, MOST_APART, SLACK, Clock, ClockFault

NS = 10**9


def clock(main: Iterator[int] | list[int], check: Iterator[int] | list[int]) -> Clock:
    return Clock(iter(main).__next__, iter(check).__next__)


def test_a_duration_is_that_between_the_nearest_readings() -> None:
    of = clock([0, 10, 5 * NS, 5 * NS + 10], [5, 5 * NS + 5])
    assert of.since(of.now()) == pytest.approx(5 - 1e-8, abs=1e-12)


@pytest.mark.parametrize(
    ("main", "check", "words"),
    [
        ([2 * NS, 2 * NS, NS, NS], [0, 0], "ran backwards by 1 s"),
        ([0, 0, NS, NS], [3 * NS, NS], "ran backwards by 2 s"),
        ([0, 0, NS, NS], [0, 2 * NS], "two clocks disagree on one duration: 1 s and 2 s"),
        ([0, 0, 10 * NS, 10 * NS], [0, NS], "two clocks disagree on one duration: 10 s and 1 s"),
        ([0, 0, 0, 0], [0, NS], "two clocks disagree"),
    ],
)
def test_an_impossible_duration_is_called_what_it_is(main: list[int], check: list[int], words: str) -> None:
    of = clock(main, check)
    start = of.now()
    with pytest.raises(ClockFault, match=words):
        of.since(start)


@given(
    duration=st.integers(0, 100 * NS),
    pauses=st.lists(st.integers(0, NS), min_size=4, max_size=4),
    drift=st.floats(-MOST_APART * 0.9, MOST_APART * 0.9),
)
def test_neither_a_lost_core_between_two_readings_nor_a_slewed_clock_is_a_fault(
    duration: int, pauses: list[int], drift: float
) -> None:
    moments = [0]
    for step in (pauses[0], pauses[1], duration, pauses[2], pauses[3]):
        moments.append(moments[-1] + step)
    first, second, third, fourth, fifth, sixth = moments
    of = clock([first, third, fourth, sixth], [round(second * (1 + drift)), round(fifth * (1 + drift))])
    assert of.since(of.now()) == pytest.approx(duration / NS)


@given(duration=st.integers(NS // 10, 100 * NS), faster=st.floats(1.1, 10))
def test_a_replaced_clock_that_runs_at_another_speed_is_found(duration: int, faster: float) -> None:
    of = clock([0, 0, round(duration / faster), round(duration / faster)], [0, duration])
    start = of.now()
    with pytest.raises(ClockFault, match="disagree"):
        of.since(start)


def test_the_clock_of_this_machine_agrees_with_itself() -> None:
    start = CLOCK.now()
    assert 0 <= CLOCK.since(start) < 60
    assert SLACK < 0.001
    assert CLOCK.seconds() <= CLOCK.seconds()


def test_replacing_what_python_offers_changes_no_duration() -> None:
    code = (
        "import attnbench, time\n"
        "import attnbench.bench.bench\n"
        "from attnbench.machine.clock import CLOCK\n"
        "from attnbench.machine.stopwatch import Stopwatch\n"
        "import torch\n"
        "sleep = time.sleep\n"
        "for name in dir(time):\n"
        "    if callable(getattr(time, name)) and name not in ('sleep', 'struct_time'):\n"
        "        setattr(time, name, lambda *given: 0)\n"
        "watch = Stopwatch(torch.device('cpu'))\n"
        "print(watch.time(lambda: sleep(0.05)).cold_ms, watch.back_to_back(lambda: sleep(0.05), lambda: None, 2))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(float(ms) >= 49 for ms in done.stdout.split())


def test_no_module_reads_another_clock_for_a_duration() -> None:
    package = Path(inspect.getfile(attnbench)).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Attribute, ast.Name, ast.alias)) and "perf_counter" in ast.dump(node)
    }
    assert found == {"machine/clock.py"}, "durations come from attnbench.machine.clock"
