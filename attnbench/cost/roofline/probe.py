"""Measure what this machine reaches in the run itself, with a large matrix product and a large copy."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from attnbench.machine.stopwatch import Stopwatch

CUDA_SIDE, CPU_SIDE = 8192, 1024
"""Side of the square matrices: bfloat16 on CUDA, float32 on a CPU."""

CUDA_BYTES, CPU_BYTES = 2**30, 64 * 2**20
"""Bytes that are copied. Twice as many are moved."""

REPEATS = 5
_WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class Probe:
    """The rates that a matrix product and a copy reached.

    Attributes:
        matmul_tflops: rate of the product in TFLOP/s, 2 operations per multiply-add.
        copy_tbs: bytes read plus bytes written, TB/s (10^12 bytes).
    """

    matmul_tflops: float
    copy_tbs: float


def measure_peaks(stopwatch: Stopwatch) -> Probe:
    """Measure a matrix product and a copy with a cold cache; each rate is the median of five.

    On CUDA, the product multiplies bfloat16 matrices of 8192 × 8192 standard normal numbers, and the copy has 1 GiB.
    2.4 GiB of memory are taken and given back to PyTorch. On a CPU, the matrices are float32 and 1024 × 1024, the copy
    has 64 MiB, and torch's number of threads is used.

    Args:
        stopwatch: the stopwatch of the device to measure.
    """
    device = stopwatch.device
    on_cuda = device.type == "cuda"
    side, dtype = (CUDA_SIDE, torch.bfloat16) if on_cuda else (CPU_SIDE, torch.float32)
    generator = torch.Generator(device).manual_seed(0)
    a, b = torch.randn(2, side, side, device=device, dtype=dtype, generator=generator)
    product = torch.empty_like(a)
    matmul_ms = _median_ms(stopwatch, partial(torch.mm, a, b, out=product))
    size = CUDA_BYTES if on_cuda else CPU_BYTES
    source = torch.zeros(size, dtype=torch.int8, device=device)
    target = torch.zeros_like(source)
    copy_ms = _median_ms(stopwatch, partial(target.copy_, source))
    return Probe(matmul_tflops=2 * side**3 / matmul_ms / 1e9, copy_tbs=2 * size / copy_ms / 1e9)


def _median_ms(stopwatch: Stopwatch, call: Callable[[], object]) -> float:
    with torch.no_grad():
        for _ in range(_WARM_UPS):
            call()
        return statistics.median(stopwatch.time(call, warm=False).cold_ms for _ in range(REPEATS))
