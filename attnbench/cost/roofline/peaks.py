"""The limits of GPUs, with the source of every figure.

A device that is not listed has no peak, so nothing is compared with a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peak:
    """Figures of one GPU.

    Attributes:
        name: its usual name.
        pattern: regular expression that the whole of ``torch.cuda.get_device_name()`` matches.
        tensor_tflops: dense bfloat16 and float16 tensor cores with float32 accumulation, TFLOP/s.
        memory_tbs: bandwidth of the memory, TB/s (10^12 bytes).
        sms: multiprocessors.
        clock_mhz: SM clock at which ``tensor_tflops`` holds. Some GPUs run higher where power allows.
        flops_per_clock: of the tensor cores of a multiprocessor, 2 for a multiply-add.
        exponentials_per_clock: results of a multiprocessor's special function units in a clock.
        fp32_per_clock: float32 instructions, such as multiply-adds, that a multiprocessor finishes in a clock.
        source: the documents of the figures above, and which figures were computed.
    """

    name: str
    pattern: str
    tensor_tflops: float
    memory_tbs: float
    sms: int
    clock_mhz: int
    flops_per_clock: int
    exponentials_per_clock: int
    fp32_per_clock: int
    source: str

    @property
    def exponentials_per_s(self) -> float:
        """Exponentials per second of all multiprocessors."""
        return self.sms * self.clock_mhz * 1e6 * self.exponentials_per_clock


INSTRUCTIONS_SOURCE = (
    "CUDA C++ Programming Guide, Arithmetic Instructions, table of throughput by compute capability (8.0, 8.9, 9.0): "
    "rows of 32-bit floating-point multiply-add and of base-2 exponential"
)
"""Where ``exponentials_per_clock`` and ``fp32_per_clock`` come from."""

_H100_PAPER = "NVIDIA H100 Tensor Core GPU Architecture, table of A100 and H100 specifications"
_A100_PAPER = "NVIDIA A100 Tensor Core GPU Architecture, table of data center GPUs"

PEAKS = (
    Peak(
        "H100 SXM", r"NVIDIA H100 80GB HBM3", 989.4, 3.35, 132, 1830, 4096, 16, 128,
        f"{_H100_PAPER} (low-precision boost clock); bandwidth: H100 datasheet",
    ),
    Peak(
        "H100 PCIe", r"NVIDIA H100 PCIe", 756.0, 2.039, 114, 1620, 4096, 16, 128,
        f"{_H100_PAPER} (low-precision boost clock)",
    ),
    Peak(
        "H100 NVL", r"NVIDIA H100 NVL", 835.5, 3.9, 132, 1545, 4096, 16, 128,
        "H100 datasheet, column NVL: 1,671 TFLOPS with sparsity, halved; clock computed from that",
    ),
    Peak(
        "H200 SXM", r"NVIDIA H200", 989.5, 4.8, 132, 1830, 4096, 16, 128,
        "H200 datasheet, column SXM: 1,979 TFLOPS with sparsity, halved; multiprocessors and clock as H100 SXM",
    ),
    Peak(
        "A100 40GB SXM", r"(NVIDIA )?A100-SXM4-40GB", 312.0, 1.555, 108, 1410, 2048, 16, 64,
        _A100_PAPER,
    ),
    Peak(
        "A100 40GB PCIe", r"(NVIDIA )?A100-PCIE-40GB", 312.0, 1.555, 108, 1410, 2048, 16, 64,
        f"A100 datasheet, column 40GB PCIe; clock: {_A100_PAPER}",
    ),
    Peak(
        "A100 80GB SXM", r"(NVIDIA )?A100-SXM4-80GB", 312.0, 2.039, 108, 1410, 2048, 16, 64,
        f"A100 datasheet, column 80GB SXM; clock: {_A100_PAPER}",
    ),
    Peak(
        "A100 80GB PCIe", r"(NVIDIA )?A100 80GB PCIe", 312.0, 1.935, 108, 1410, 2048, 16, 64,
        f"A100 datasheet, column 80GB PCIe; clock: {_A100_PAPER}",
    ),
    Peak(
        "L40S", r"NVIDIA L40S", 366.5, 0.864, 142, 2520, 1024, 16, 128,
        "L40S datasheet: 733 TFLOPS with sparsity, halved (its dense figure, 362.05, is twice that of the L40 with its "
        "lower clock); clock computed from its 91.6 TFLOPS of float32",
    ),
    Peak(
        "RTX 4090", r"NVIDIA GeForce RTX 4090", 165.2, 1.008, 128, 2520, 512, 16, 128,
        "NVIDIA Ada GPU Architecture, appendix A, table of GeForce RTX 4090: with FP32 accumulate, without sparsity",
    ),
)  # fmt: skip
"""Every GPU that is known."""


def peak_of(device_name: str) -> Peak | None:
    """Return the peak of a device, or None if it is not listed.

    Args:
        device_name: what ``torch.cuda.get_device_name()`` returns. CPUs, parts of a GPU (MIG) and related models with
            the same beginning, such as laptop versions, match nothing.
    """
    return next((peak for peak in PEAKS if re.fullmatch(peak.pattern, device_name)), None)
