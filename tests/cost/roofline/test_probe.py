from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from attnbench.cost.roofline import Probe, measure_peaks
from attnbench.machine.stopwatch import Stopwatch
from attnbench.machine.timers import Timing

CPU = torch.device("cpu")


class Scripted(Stopwatch):
    """Runs each call, and says that it took what the script says."""

    def __init__(self, products: list[float], copies: list[float]) -> None:
        super().__init__(CPU)
        self.left = {"mm": list(products), "copy_": list(copies)}

    def time(
        self, call: Callable[[], object], prepare: Callable[[], object] = lambda: None, *, warm: bool = True
    ) -> Timing:
        call()
        inner: Any = call
        return Timing(self.left[inner.func.__name__].pop(0))


def test_the_median_is_turned_into_operations_and_bytes_a_second() -> None:
    found = measure_peaks(Scripted([9.0, 20.0, 10.0, 11.0, 900.0], [4.0, 2.0, 50.0, 8.0, 3.0]))
    assert found == Probe(
        matmul_tflops=pytest.approx(2 * 1024**3 / 11e-3 / 1e12),
        copy_tbs=pytest.approx(2 * 64 * 2**20 / 4e-3 / 1e12),
    )


def test_a_cpu_reaches_something_and_no_more_than_cpus_can() -> None:
    found = measure_peaks(Stopwatch(CPU))
    cores = os.cpu_count() or 1
    assert 1e-4 < found.matmul_tflops < cores * 6e9 * 128 / 1e12  # 6 GHz, four vectors of 16 multiply-adds
    assert 1e-4 < found.copy_tbs < 2.0
