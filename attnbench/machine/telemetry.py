"""Clock, power, temperature and slow-downs of the GPU, read beside each sample."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Told = TypeVar("Told")

# NVML's clock event reasons that mean the numbers are not the card's own; a power cap is normal and only recorded.
_POWER_CAP = 0x4
_SLOWDOWNS = {
    0x8: "hardware slow-down",
    0x20: "software thermal slow-down",
    0x40: "hardware thermal slow-down",
    0x80: "power brake",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the GPU."""

    sm_clock_mhz: float
    power_w: float
    temperature_c: float
    clock_reasons: int
    power_limit_w: float | None = None
    foreign_processes: int | None = None


REQUIRED = ("sm_clock_mhz", "power_w", "temperature_c", "clock_reasons")
"""What every card tells that tells anything."""


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What the readings of a cell say: medians, whether power was capped, and what slowed the card, if anything."""

    sm_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    power_capped: bool | None = None
    slowdown: str | None = None


def read(device: torch.device) -> Reading | None:
    """Read the GPU by NVML, or return None where there is no GPU or NVML does not answer."""
    if device.type != "cuda":
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        return Reading(
            sm_clock_mhz=pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            power_w=pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            temperature_c=pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
            clock_reasons=pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
            power_limit_w=_if_told(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3),
            foreign_processes=_if_told(lambda: _foreign(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))),
        )
    except pynvml.NVMLError:
        return None


def _if_told(ask: Callable[[], Told]) -> Told | None:
    """Return an answer of NVML that some cards and containers do not give."""
    import pynvml

    try:
        return ask()
    except pynvml.NVMLError:
        return None


def _foreign(processes: Sequence[Any]) -> int | None:
    """Count the processes on a GPU that are not this one; None if this one is not among them.

    In a container, process numbers are those of the host, and none of them is ours: then nothing can be told, except
    that one process alone must be this one.
    """
    others = [process for process in processes if process.pid != os.getpid()]
    if len(others) < len(processes):
        return len(others)
    return 0 if len(processes) <= 1 else None


def summarise(readings: Sequence[Reading]) -> Telemetry:
    """Sum up a cell's readings; a slow-down counts when at least half of them show it."""
    if not readings:
        return Telemetry()
    shown = [
        why
        for bit, why in _SLOWDOWNS.items()
        if 2 * sum(bool(r.clock_reasons & bit) for r in readings) >= len(readings)
    ]
    return Telemetry(
        sm_clock_mhz=statistics.median(r.sm_clock_mhz for r in readings),
        power_w=statistics.median(r.power_w for r in readings),
        temperature_c=statistics.median(r.temperature_c for r in readings),
        power_capped=any(r.clock_reasons & _POWER_CAP for r in readings),
        slowdown=", ".join(shown) or None,
    )
