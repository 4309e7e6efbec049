"""The stopwatch: what is inside a timed call, what is not, and with which cache."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attnbench.machine import stopwatch as timing
from attnbench.machine.stopwatch import Stopwatch, cache_bytes

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


class Laboratory:
    """A clock that moves only when something happens, and a list of what happened."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, list[str]()
        self.device_waited = False

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


@pytest.fixture
def laboratory(monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    made = Laboratory()
    monkeypatch.setattr(time, "perf_counter", lambda: made.now)
    monkeypatch.setattr(timing, "cache_bytes", lambda device: 1000)
    monkeypatch.setattr(torch, "empty", lambda *size, **options: SimpleNamespace(fill_=made.flush))
    monkeypatch.setattr(torch.cuda, "Event", made.event)
    monkeypatch.setattr(torch.cuda, "synchronize", made.synchronize)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: made.happen("sleep", cycles / 2e9))
    return made


def test_on_the_cpu_the_call_alone_is_timed_after_the_cache_was_flushed(laboratory: Laboratory) -> None:
    stopwatch = Stopwatch(CPU)
    taken = stopwatch.time(laboratory.call, laboratory.prepare)
    assert stopwatch.timer == "perf_counter"
    assert taken.cold_ms == pytest.approx(7)
    assert (taken.warm_ms, taken.host_ms) == (None, None)
    assert laboratory.log == ["prepare", "flush", "call"]


def test_on_cuda_a_cold_call_is_followed_by_a_warm_one_each_between_events(laboratory: Laboratory) -> None:
    stopwatch = Stopwatch(CUDA)
    taken = stopwatch.time(laboratory.call, laboratory.prepare)
    assert stopwatch.timer == "cuda_events"
    assert (taken.cold_ms, taken.warm_ms) == pytest.approx((7, 7))
    timed = ["synchronize", "sleep", "record", "call", "record", "wait"]
    assert laboratory.log == ["prepare", "flush", *timed, "prepare", *timed]


def test_a_call_that_is_only_wanted_cold_runs_once(laboratory: Laboratory) -> None:
    taken = Stopwatch(CUDA).time(laboratory.call, laboratory.prepare, warm=False)
    assert (taken.cold_ms, taken.warm_ms) == (pytest.approx(7), None)
    assert laboratory.log.count("call") == laboratory.log.count("prepare") == 1


@pytest.mark.parametrize("waited", [False, True])
def test_the_time_to_enqueue_is_known_unless_the_call_waited(laboratory: Laboratory, waited: bool) -> None:
    laboratory.device_waited = waited
    taken = Stopwatch(CUDA).time(laboratory.call)
    assert taken.host_ms == (None if waited else pytest.approx(7))


def test_cold_and_warm_are_told_apart(laboratory: Laboratory) -> None:
    seconds = iter([0.009, 0.004])
    taken = Stopwatch(CUDA).time(lambda: laboratory.happen("call", next(seconds)))
    assert (taken.cold_ms, taken.warm_ms) == pytest.approx((9, 4))


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
    taken = Stopwatch(CPU).time(lambda: time.sleep(0.02), lambda: time.sleep(0.06))
    assert 20 <= taken.cold_ms < 60
    assert taken.warm_ms is None


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
