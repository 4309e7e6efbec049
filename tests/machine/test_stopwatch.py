"""The stopwatch: what is inside a timed call, what is not, and with which cache."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.machine import stopwatch as timing
from attnbench.machine import timers
from attnbench.machine.clock import Clock, ClockFault
from attnbench.machine.stopwatch import Stopwatch, cache_bytes
from attnbench.machine.timers import Graph, Wall, check_timer

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


class Laboratory:
    """A clock that moves only when something happens, a made-up GPU, and a list of what happened."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, list[str]()
        self.device_waited = False
        self.captures = True
        self.clock = Clock(lambda: round(self.now * 1e9), lambda: round(self.now * 1e9))

    def happen(self, what: str, seconds: float) -> None:
        self.log.append(what)
        self.now += seconds

    def prepare(self) -> None:
        self.happen("prepare", 5)

    def call(self) -> None:
        self.happen("call", 0.007)

    def flush(self, value: int) -> None:
        self.happen("flush", 3)

    def synchronize(self, device: torch.device) -> None:
        self.happen("synchronize", 1)

    def event(self, *, enable_timing: bool) -> Any:
        assert enable_timing
        made = SimpleNamespace(at=None, query=lambda: self.device_waited)

        def record() -> None:
            self.log.append("record")
            made.at = self.now

        made.record = record
        made.synchronize = lambda: self.happen("wait", 2)
        made.elapsed_time = lambda end: (end.at - made.at) * 1e3
        return made

    def graph(self) -> Any:
        return SimpleNamespace(replay=lambda: self.happen("replay", 0.002))

    def captured(self, graph: Any) -> Any:
        if not self.captures:
            raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might …")
        return Region(self, "capture")


class Region:
    """A with-block that is written to the log."""

    def __init__(self, of: Laboratory, name: str) -> None:
        self.of, self.name = of, name

    def __enter__(self) -> None:
        self.of.log.append(self.name)

    def __exit__(self, *error: object) -> None:
        self.of.log.append(f"end of {self.name}")


@pytest.fixture
def laboratory(monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    made = Laboratory()
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(timing, "cache_bytes", lambda device: 1000)
    monkeypatch.setattr(torch, "empty", lambda *size, **options: SimpleNamespace(fill_=made.flush))
    monkeypatch.setattr(torch.cuda, "Event", made.event)
    monkeypatch.setattr(torch.cuda, "synchronize", made.synchronize)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: made.happen("sleep", cycles / 2e9))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda aside: Region(made, "aside"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", made.graph)
    monkeypatch.setattr(torch.cuda, "graph", made.captured)
    return made


def test_on_the_cpu_the_call_alone_is_timed_after_the_cache_was_flushed(laboratory: Laboratory) -> None:
    stopwatch = Stopwatch(CPU, clock=laboratory.clock)
    taken = stopwatch.time(laboratory.call, laboratory.prepare)
    assert stopwatch.timer == "wall"
    assert taken.cold_ms == pytest.approx(7)
    assert (taken.warm_ms, taken.host_ms) == (None, None)
    assert laboratory.log == ["prepare", "flush", "call"]


def test_on_cuda_a_cold_call_is_followed_by_a_warm_one_each_between_events(laboratory: Laboratory) -> None:
    stopwatch = Stopwatch(CUDA, clock=laboratory.clock)
    taken = stopwatch.time(laboratory.call, laboratory.prepare)
    assert stopwatch.timer == "events"
    assert (taken.cold_ms, taken.warm_ms) == pytest.approx((7, 7))
    timed = ["synchronize", "sleep", "record", "call", "record", "wait"]
    assert laboratory.log == ["prepare", "flush", *timed, "prepare", *timed]


def test_a_call_that_is_only_wanted_cold_runs_once(laboratory: Laboratory) -> None:
    taken = Stopwatch(CUDA, clock=laboratory.clock).time(laboratory.call, laboratory.prepare, warm=False)
    assert (taken.cold_ms, taken.warm_ms) == (pytest.approx(7), None)
    assert laboratory.log.count("call") == laboratory.log.count("prepare") == 1


@pytest.mark.parametrize(
    ("device", "log"),
    [
        (CPU, ["prepare", "flush", "meet", "call"]),
        (CUDA, ["prepare", "flush", "synchronize", "sleep", "meet", "record", "call", "record", "wait"]),
    ],
)
def test_what_processes_wait_for_before_they_call_together_is_not_timed(
    device: torch.device, log: list[str], laboratory: Laboratory
) -> None:
    stopwatch = Stopwatch(device, clock=laboratory.clock)
    taken = stopwatch.time_together(laboratory.call, laboratory.prepare, lambda: laboratory.happen("meet", 11))
    assert (taken.cold_ms, taken.warm_ms) == (pytest.approx(7), None)
    assert laboratory.log == log


@pytest.mark.parametrize("waited", [False, True])
def test_the_time_to_enqueue_is_known_unless_the_call_waited(laboratory: Laboratory, waited: bool) -> None:
    laboratory.device_waited = waited
    taken = Stopwatch(CUDA, clock=laboratory.clock).time(laboratory.call)
    assert taken.host_ms == (None if waited else pytest.approx(7))


def test_cold_and_warm_are_told_apart(laboratory: Laboratory) -> None:
    seconds = iter([0.009, 0.004])
    taken = Stopwatch(CUDA, clock=laboratory.clock).time(lambda: laboratory.happen("call", next(seconds)))
    assert (taken.cold_ms, taken.warm_ms) == pytest.approx((9, 4))


def test_the_wall_clock_on_a_gpu_holds_the_wait_for_it(laboratory: Laboratory) -> None:
    stopwatch = Stopwatch(CUDA, Wall(CUDA, laboratory.clock))
    taken = stopwatch.time(laboratory.call, laboratory.prepare)
    assert (stopwatch.timer, taken.cold_ms) == ("wall", pytest.approx(1007))
    assert laboratory.log == ["prepare", "flush", "synchronize", "call", "synchronize"]


def test_a_graph_is_captured_once_a_sample_and_only_its_replay_is_timed(laboratory: Laboratory) -> None:
    stopwatch = Stopwatch(CUDA, Graph(CUDA))
    taken = stopwatch.time(laboratory.call, laboratory.prepare)
    assert stopwatch.timer == "graph"
    assert (taken.cold_ms, taken.warm_ms, taken.host_ms) == (pytest.approx(2), pytest.approx(2), None)
    capture = ["prepare", "aside", "call", "end of aside", "prepare", "capture", "call", "end of capture", "replay"]
    timed = ["synchronize", "record", "replay", "record", "wait"]
    assert laboratory.log == [*capture, "flush", *timed, *timed]


def test_a_call_that_cannot_be_captured_is_unsupported_by_this_timer(laboratory: Laboratory) -> None:
    laboratory.captures = False
    with pytest.raises(Unsupported, match=r"--timer graph: this call cannot be captured .* stream is capturing$"):
        Stopwatch(CUDA, Graph(CUDA)).time(laboratory.call)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_back_to_back_calls_are_waited_for_once(device: torch.device, laboratory: Laboratory) -> None:
    laboratory.prepare = lambda: laboratory.happen("prepare", 0.001)  # type: ignore[method-assign]
    ms = Stopwatch(device, clock=laboratory.clock).back_to_back(laboratory.call, laboratory.prepare, 4)
    once = ["synchronize"] if device is CUDA else []
    assert ms == pytest.approx(8 + (250 if device is CUDA else 0))
    assert laboratory.log == [*once, *["prepare", "call"] * 4, *once]


@pytest.mark.parametrize(("device", "unit"), [(CPU, "s"), (CUDA, "s")])
def test_a_clock_that_steps_back_during_a_call_is_called_that(
    device: torch.device, unit: str, laboratory: Laboratory
) -> None:
    stopwatch = Stopwatch(device, clock=laboratory.clock)
    with pytest.raises(ClockFault, match=f"the clock ran backwards by 2 {unit}"):
        stopwatch.time(lambda: laboratory.happen("call", -2))


def test_an_event_before_its_start_is_a_clock_that_ran_backwards(
    laboratory: Laboratory, hand_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClockFault, match="the clock ran backwards by 3 ms"):
        Stopwatch(CUDA, clock=hand_clock([0.0])).time(lambda: laboratory.happen("call", -0.003))


def test_a_clock_that_stands_still_is_called_that(laboratory: Laboratory) -> None:
    with pytest.raises(ClockFault, match="the clock did not move"):
        Stopwatch(CPU, clock=laboratory.clock).time(lambda: None)


@pytest.mark.parametrize(("cache", "flushed"), [(2**20, 2**21), (50 * 2**20, 100 * 2**20), (2**30, 256 * 2**20)])
def test_the_flushed_buffer_is_twice_the_cache_up_to_a_limit(
    cache: int, flushed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(timing, "cache_bytes", lambda device: cache)
    monkeypatch.setattr(torch, "empty", lambda size, dtype, device: sizes.append(size * dtype.itemsize))
    Stopwatch(CPU)
    assert sizes == [flushed]


def test_real_calls_take_the_time_they_take() -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        start = time.perf_counter()
        time.sleep(seconds)
        slept.append((time.perf_counter() - start) * 1e3)

    stopwatch, start = Stopwatch(CPU), time.perf_counter()
    taken = stopwatch.time(lambda: sleep(0.02), lambda: sleep(0.06))
    whole = (time.perf_counter() - start) * 1e3
    prepared, called = slept
    assert called <= taken.cold_ms <= whole - prepared
    assert taken.warm_ms is None


def test_a_timer_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="--timer 'clock' is none of wall, events, cupti, graph"):
        check_timer("clock", CUDA)


@pytest.mark.parametrize("name", ["events", "cupti", "graph"])
def test_a_cpu_has_the_wall_clock_only(name: str) -> None:
    check_timer("wall", CPU)
    check_timer(name, CUDA)
    with pytest.raises(BadInput, match=f"--timer '{name}' times a GPU.*--timer wall"):
        check_timer(name, CPU)


def test_the_head_start_is_longer_than_any_call_takes_to_enqueue() -> None:
    assert timers.HEAD_START / 2e9 >= 0.05  # at 2 GHz


@pytest.mark.parametrize(("text", "size"), [("32K\n", 2**15), ("2048K", 2**21), ("48M\n", 48 * 2**20), ("512", 512)])
def test_cache_sizes_are_read_as_the_system_writes_them(text: str, size: int, tmp_path: Path) -> None:
    (tmp_path / "size").write_text(text)
    assert timing._sysfs_bytes(tmp_path / "size") == size


def test_the_last_level_cache_of_this_machine_is_found() -> None:
    assert 2**15 <= cache_bytes(CPU) <= 2**33


def test_without_a_word_from_the_system_the_cache_is_taken_for_32_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    assert cache_bytes(CPU) == 32 * 2**20


def test_on_cuda_the_cache_is_the_l2(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(L2_cache_size=50 * 2**20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert cache_bytes(CUDA) == 50 * 2**20
