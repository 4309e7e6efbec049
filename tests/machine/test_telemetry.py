"""What the GPU says beside each sample, and when its word takes a latency away; with a made-up NVML."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from attnbench.machine import telemetry
from attnbench.machine.telemetry import Reading, Telemetry, summarise

POWER_CAP = 0x4
SLOW = {"hardware slow-down": 0x8, "software thermal": 0x20, "hardware thermal": 0x40, "power brake": 0x80}


def readings(*reasons: int) -> list[Reading]:
    return [Reading(1500.0 + i, 300.0, 60.0, bits) for i, bits in enumerate(reasons)]


class MadeUpNvml(ModuleType):
    """Answers for one GPU, by its UUID only."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    class NVMLError(Exception):
        pass

    def __init__(self, *, works: bool = True) -> None:
        super().__init__("pynvml")
        self.works = works
        self.pids: list[int] | None = [os.getpid(), 1]

    def nvmlInit(self) -> None:
        if not self.works:
            raise self.NVMLError("driver not loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != "GPU-1234":
            raise self.NVMLError("not found")
        return "handle"

    def nvmlDeviceGetClockInfo(self, handle: str, which: int) -> int:
        return {("handle", 1): 1755}[handle, which]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 412_500  # mW

    def nvmlDeviceGetTemperature(self, handle: str, which: int) -> int:
        return {("handle", 0): 61}[handle, which]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return POWER_CAP

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return 700_000  # mW

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        if self.pids is None:
            raise self.NVMLError("not supported")
        return [SimpleNamespace(pid=pid) for pid in self.pids]


def install(monkeypatch: pytest.MonkeyPatch, uuid: Any, *, works: bool = True) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", MadeUpNvml(works=works))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuid))


@pytest.mark.parametrize("uuid", ["1234", "GPU-1234"])
def test_a_gpu_is_read_by_its_uuid_in_plain_units(uuid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, uuid)
    assert telemetry.read(torch.device("cuda")) == Reading(1755, 412.5, 61, POWER_CAP, 700, 1)


@pytest.mark.parametrize(("uuid", "works"), [("1234", False), ("5678", True)])
def test_where_nvml_does_not_answer_there_is_no_reading(
    uuid: str, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, uuid, works=works)
    assert telemetry.read(torch.device("cuda")) is None


@pytest.mark.parametrize(
    ("pids", "others"),
    [([os.getpid()], 0), ([os.getpid(), 5, 7], 2), ([], 0), ([5], 0), ([5, 7], None), (None, None)],
)
def test_other_processes_on_the_gpu_are_counted_where_they_can_be_told(
    pids: list[int] | None, others: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = MadeUpNvml()
    made.pids = pids
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
    found = telemetry.read(torch.device("cuda"))
    assert found is not None
    assert (found.foreign_processes, found.power_limit_w) == (others, 700)


def test_a_cpu_is_not_asked() -> None:
    assert telemetry.read(torch.device("cpu")) is None


def test_without_readings_nothing_is_claimed() -> None:
    assert summarise([]) == Telemetry(None, None, None, None, None)


def test_readings_are_summed_up_by_their_medians() -> None:
    seen = summarise([Reading(1000, 300, 50, 0), Reading(1980, 500, 55, 0), Reading(1900, 310, 80, 0)])
    assert seen == Telemetry(1900, 310, 55, power_capped=False, slowdown=None)


@pytest.mark.parametrize(("name", "bit"), SLOW.items())
def test_a_slow_down_counts_from_half_of_the_readings(name: str, bit: int) -> None:
    for slow, count in ((1, 1), (1, 2), (3, 6), (4, 6)):
        seen = summarise(readings(*[bit] * slow, *[0] * (count - slow)))
        assert seen.slowdown is not None
        assert name in seen.slowdown
    for slow, count in ((0, 3), (1, 3), (2, 5), (9, 20)):
        assert summarise(readings(*[bit] * slow, *[0] * (count - slow))).slowdown is None


def test_several_slow_downs_are_all_named() -> None:
    seen = summarise(readings(0x8 | 0x40, 0x8, 0x40 | 0x1, 0x8 | 0x40))
    assert seen.slowdown == "hardware slow-down, hardware thermal slow-down"


def test_a_power_cap_is_recorded_and_no_slow_down() -> None:
    always = summarise(readings(POWER_CAP, POWER_CAP, POWER_CAP))
    once = summarise(readings(POWER_CAP, 0, 0))
    assert (always.power_capped, always.slowdown) == (once.power_capped, once.slowdown) == (True, None)


@pytest.mark.parametrize("harmless", [0x1, 0x2, 0x10, 0x100])  # idle, clocks set by the user, sync boost, display
def test_other_reasons_are_no_slow_down(harmless: int) -> None:
    assert summarise(readings(harmless, harmless)).slowdown is None
