"""The least times of attention on a GPU, what a measured time achieves, and a model of what a fused kernel does in
it."""

from __future__ import annotations

from dataclasses import dataclass

from attnbench.cost.roofline.peaks import Peak
from attnbench.cost.roofline.probe import Probe
from attnbench.kernels.errors import BadInput

FORWARD_PRODUCTS = 2
"""Matrix products for each pair: Q Kᵀ and P V.

A backward pass takes 5 in one sweep, and 7 in the two of our kernels.
"""

STEP_KEYS = 128
"""Number of keys between two rescalings of the accumulator in our kernels."""

PAIR_INSTRUCTIONS = 4.0
"""Float32 instructions of softmax for each pair, besides its exponential.

They are the maximum, a multiply-add that scales and subtracts, the addition to the row's sum, and half of a conversion
to 16 bits, which runs at half the rate."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least milliseconds that a call takes on each unit of the GPU by itself.

    Attributes:
        tensor_ms: time of the matrix products on the tensor cores.
        exponentials_ms: time of the exponentials on the special function units.
        memory_ms: time of the bytes at the bandwidth of the memory.
    """

    tensor_ms: float
    exponentials_ms: float
    memory_ms: float

    @property
    def binding(self) -> str:
        """The unit with the largest bound: "tensor", "exponentials" or "memory"."""
        return max(("tensor", "exponentials", "memory"), key=lambda unit: float(getattr(self, f"{unit}_ms")))

    @property
    def ms(self) -> float:
        """The largest of the three, which assumes that all units work at once and never wait."""
        return max(self.tensor_ms, self.exponentials_ms, self.memory_ms)

    @property
    def serial_ms(self) -> float:
        """The time of products and exponentials one after the other, or of the memory if that takes longer."""
        return max(self.tensor_ms + self.exponentials_ms, self.memory_ms)


def attend_bounds(
    gpu: Peak,
    *,
    pairs: int,
    head_dim: int,
    nbytes: int,
    products: int = FORWARD_PRODUCTS,
    clock_mhz: float | None = None,
) -> Bounds:
    """Return the least times of the phase attend.

    Args:
        gpu: what the device can do.
        pairs: number of executed pairs, over all batch items and heads.
        head_dim: channels that are computed, including padding.
        nbytes: bytes that must be moved, ``Traffic.min_bytes``.
        products: matrix products per pair.
        clock_mhz: measured SM clock, with which tensor cores and exponentials scale. Default: the clock of the peak.

    Raises:
        BadInput: for a negative number, head_dim or products below 1, or a clock that is not above 0.
    """
    _check(pairs=pairs, nbytes=nbytes)
    _check_least(head_dim=head_dim, products=products)
    if clock_mhz is not None and not clock_mhz > 0:
        raise BadInput(f"clock_mhz is {clock_mhz!r}; it must be above 0")
    slower = 1.0 if clock_mhz is None else gpu.clock_mhz / clock_mhz
    return Bounds(
        tensor_ms=2 * products * head_dim * pairs / gpu.tensor_tflops / 1e9 * slower,
        exponentials_ms=pairs / gpu.exponentials_per_s * 1e3 * slower,
        memory_ms=nbytes / gpu.memory_tbs / 1e9,
    )


def exponential_ceiling_tflops(gpu: Peak, head_dim: int, *, products: int = FORWARD_PRODUCTS) -> float:
    """Return the TFLOP/s of attention at which the special function units are busy all the time: the ceiling of
    softmax.

    Arguments and errors are those of ``attend_bounds``. The ceiling rises with ``head_dim``, because a pair takes one
    exponential whatever ``head_dim`` is.
    """
    _check_least(head_dim=head_dim, products=products)
    return 2 * products * head_dim * gpu.exponentials_per_s / 1e12


@dataclass(frozen=True, slots=True)
class Achieved:
    """What a measured time achieves. A fraction is None if the peak is not known.

    Attributes:
        tflops: operations per second, TFLOP/s.
        tbs: bytes per second, TB/s.
        mfu: ``tflops`` as a fraction of the datasheet's tensor peak.
        mfu_probe: ``tflops`` as a fraction of the matrix product measured in the run.
        bandwidth: ``tbs`` as a fraction of the datasheet's memory bandwidth.
        bandwidth_probe: ``tbs`` as a fraction of the copy measured in the run.
    """

    tflops: float
    tbs: float
    mfu: float | None
    mfu_probe: float | None
    bandwidth: float | None
    bandwidth_probe: float | None


def achieved(
    time_ms: float, *, flops: int, nbytes: int, gpu: Peak | None = None, probe: Probe | None = None
) -> Achieved:
    """Return the rates of ``flops`` operations and ``nbytes`` bytes in ``time_ms``, and their fractions of the peaks.

    Args:
        time_ms: measured milliseconds.
        flops: operations to count, 2 for a multiply-add. For an MFU, count those of kept pairs only.
        nbytes: bytes to count, minimum or modelled.
        gpu: the datasheet's peak; None if the device is not listed.
        probe: the peaks measured in the same run; None if there are none.

    Raises:
        BadInput: if the time is not above 0, or a number is negative.
    """
    _check_time(time_ms)
    _check(flops=flops, nbytes=nbytes)
    tflops, tbs = flops / time_ms / 1e9, nbytes / time_ms / 1e9
    return Achieved(
        tflops=tflops,
        tbs=tbs,
        mfu=tflops / gpu.tensor_tflops if gpu else None,
        mfu_probe=tflops / probe.matmul_tflops if probe else None,
        bandwidth=tbs / gpu.memory_tbs if gpu else None,
        bandwidth_probe=tbs / probe.copy_tbs if probe else None,
    )


@dataclass(frozen=True, slots=True)
class TimeShare:
    """A part of a fused time in milliseconds, with the range that the assumptions allow.

    Its provenance is "modelled".
    """

    ms: float
    lo_ms: float
    hi_ms: float


@dataclass(frozen=True, slots=True)
class AttendSplit:
    """A model of how a fused forward kernel spends its time. The three values of ``ms`` add up to the time."""

    qk: TimeShare
    softmax: TimeShare
    av: TimeShare


def split_attend(
    time_ms: float, gpu: Peak, *, pairs: int, head_dim: int, clock_mhz: float | None = None
) -> AttendSplit:
    """Split the measured time of a fused forward attend into Q Kᵀ, softmax and P V.

    By itself, each part would take the time of its unit. The two products share their FLOPs on the tensor cores
    equally. Softmax takes one exponential per pair on the special function units, then ``PAIR_INSTRUCTIONS`` and the
    rescaling of the accumulator on the float32 lanes. If the measured time is longer than the sum, all parts are
    stretched by the same factor, as if waiting were spread over them in proportion. If it is shorter, products and
    softmax overlap, and each gets half of the overlap. A time below that of one unit means that the clock was higher
    than assumed; both parts are then shortened to fit.

    The range covers the cases between which a single time cannot distinguish. At one end, softmax is entirely hidden
    behind the products, which take all of the time. At the other end, the products run at the peak and everything else
    is softmax, or all of the overlap counts as softmax, whichever is more. Memory is not part of the model: time that
    the kernel waits for it is contained in all three parts.

    Args:
        time_ms: measured milliseconds of attend.
        gpu: what the device can do.
        pairs: number of executed pairs, at least 1.
        head_dim: channels that are computed.
        clock_mhz: measured SM clock. Default: the clock of the peak.

    Raises:
        BadInput: for the same reasons as ``attend_bounds``, and if the time is not above 0 or there are no pairs.
    """
    _check_time(time_ms)
    _check_least(pairs=pairs)
    bounds = attend_bounds(gpu, pairs=pairs, head_dim=head_dim, nbytes=0, clock_mhz=clock_mhz)
    instructions = PAIR_INSTRUCTIONS + head_dim / STEP_KEYS
    products = bounds.tensor_ms
    softmax = bounds.exponentials_ms * (1 + instructions * gpu.exponentials_per_clock / gpu.fp32_per_clock)
    fit = min(1.0, time_ms / max(products, softmax))
    products, softmax = products * fit, softmax * fit
    overlap = products + softmax - time_ms
    middle = softmax - overlap / 2 if overlap > 0 else time_ms * softmax / (products + softmax)
    most = max(softmax, time_ms - products)
    product = TimeShare((time_ms - middle) / 2, (time_ms - most) / 2, time_ms / 2)
    return AttendSplit(qk=product, softmax=TimeShare(middle, 0.0, most), av=product)


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 0:
            raise BadInput(f"{name} is {value!r}; it must not be negative")


def _check_least(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise BadInput(f"{name} is {value!r}; it must be at least 1")


def _check_time(time_ms: float) -> None:
    if not time_ms > 0:
        raise BadInput(f"time_ms is {time_ms!r}; it must be above 0")
