from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.cost.roofline import (
    PEAKS,
    Peak,
    Probe,
    achieved,
    attend_bounds,
    exponential_ceiling_tflops,
    peak_of,
    split_attend,
)
from attnbench.kernels.errors import BadInput

TOKENS, HEADS = 55_296, 12
DENSE = HEADS * TOKENS**2
FLASH4_MS = 26.9  # dense attention of flash-attn-4 at this size, measured on an H100

# One number of everything: 1 TFLOP/s of products, 1 TB/s, 10^11 exponentials and 8·10^11 float32 instructions a second.
SIMPLE = Peak("simple", "simple", 1.0, 1.0, 100, 1000, 10, 1, 8, "made up")


def h100() -> Peak:
    peak = peak_of("NVIDIA H100 80GB HBM3")
    assert peak is not None
    return peak


def test_the_three_bounds_are_work_divided_by_rate() -> None:
    bounds = attend_bounds(SIMPLE, pairs=10**9, head_dim=100, nbytes=5 * 10**9)
    assert bounds.tensor_ms == pytest.approx(400)
    assert bounds.exponentials_ms == pytest.approx(10)
    assert bounds.memory_ms == pytest.approx(5)
    assert (bounds.binding, bounds.ms, bounds.serial_ms) == ("tensor", pytest.approx(400), pytest.approx(410))


def test_each_unit_can_bind() -> None:
    assert attend_bounds(SIMPLE, pairs=10**9, head_dim=1, nbytes=0).binding == "exponentials"
    assert attend_bounds(SIMPLE, pairs=10**9, head_dim=1, nbytes=10**11).binding == "memory"
    assert attend_bounds(SIMPLE, pairs=10**9, head_dim=16, nbytes=0).binding == "tensor"


def test_compute_scales_with_the_clock_and_memory_does_not() -> None:
    given_clock = attend_bounds(SIMPLE, pairs=10**9, head_dim=64, nbytes=10**9, clock_mhz=500)
    default = attend_bounds(SIMPLE, pairs=10**9, head_dim=64, nbytes=10**9)
    assert given_clock.tensor_ms == pytest.approx(2 * default.tensor_ms)
    assert given_clock.exponentials_ms == pytest.approx(2 * default.exponentials_ms)
    assert given_clock.memory_ms == default.memory_ms


def test_backward_products_count_but_exponentials_stay_one_a_pair() -> None:
    forward = attend_bounds(SIMPLE, pairs=10**9, head_dim=64, nbytes=0)
    backward = attend_bounds(SIMPLE, pairs=10**9, head_dim=64, nbytes=0, products=5)
    assert backward.tensor_ms == pytest.approx(2.5 * forward.tensor_ms)
    assert backward.exponentials_ms == forward.exponentials_ms


def test_on_an_h100_softmax_has_twice_the_ceiling_of_the_products_at_head_dim_128() -> None:
    # 132 × 16 exponentials a clock are 3.9 a picosecond; a pair has one, and 512 operations.
    assert exponential_ceiling_tflops(h100(), 128) == pytest.approx(1979, rel=1e-3)
    assert exponential_ceiling_tflops(h100(), 64) == pytest.approx(h100().tensor_tflops, rel=1e-3)


def test_the_fastest_dense_kernel_lies_between_full_overlap_and_none() -> None:
    bounds = attend_bounds(h100(), pairs=DENSE, head_dim=128, nbytes=4 * HEADS * TOKENS * 128 * 2)
    assert bounds.binding == "tensor"
    assert bounds.tensor_ms == pytest.approx(19.0, abs=0.05)
    assert bounds.exponentials_ms == pytest.approx(9.5, abs=0.05)
    assert bounds.ms < FLASH4_MS < bounds.serial_ms


def test_a_measured_time_against_datasheet_and_probe() -> None:
    found = achieved(
        FLASH4_MS, flops=4 * 128 * DENSE, nbytes=679_477_248, gpu=h100(), probe=Probe(matmul_tflops=782, copy_tbs=3.0)
    )
    assert found.tflops == pytest.approx(698.4, abs=0.1)
    assert found.mfu == pytest.approx(0.706, abs=1e-3)
    assert found.mfu_probe == pytest.approx(0.893, abs=1e-3)
    assert found.tbs == pytest.approx(0.02526, abs=1e-5)
    assert found.bandwidth == pytest.approx(found.tbs / 3.35)
    assert found.bandwidth_probe == pytest.approx(found.tbs / 3.0)


def test_without_a_peak_there_is_no_mfu() -> None:
    found = achieved(1.0, flops=10**9, nbytes=10**9, gpu=peak_of("some CPU"))
    assert (found.tflops, found.tbs) == (pytest.approx(1), pytest.approx(1))
    assert [found.mfu, found.mfu_probe, found.bandwidth, found.bandwidth_probe] == [None] * 4


# SIMPLE, 10^9 pairs of head_dim 2: 8 ms of products; softmax 10 ms of exponentials and 4 + 2/128 instructions in 8ths.
PRODUCTS, SOFTMAX = 8.0, 10 + 10 * (4 + 2 / 128) / 8


@pytest.mark.parametrize(
    ("time_ms", "softmax"),
    [
        (10 * (PRODUCTS + SOFTMAX), 10 * SOFTMAX),  # ten times as long as the units: all is stretched
        (PRODUCTS + SOFTMAX, SOFTMAX),  # one after the other
        (PRODUCTS + SOFTMAX - 4, SOFTMAX - 2),  # 4 ms of overlap, half to each
        (SOFTMAX, SOFTMAX - PRODUCTS / 2),  # products hidden whole
        (SOFTMAX / 2, (SOFTMAX - PRODUCTS / 2) / 2),  # a clock twice as high
    ],
)
def test_the_split_by_hand(time_ms: float, softmax: float) -> None:
    found = split_attend(time_ms, SIMPLE, pairs=10**9, head_dim=2)
    assert found.softmax.ms == pytest.approx(softmax)
    assert found.qk == found.av
    assert found.qk.ms == pytest.approx((time_ms - softmax) / 2)


def test_the_range_of_the_split_by_hand() -> None:
    longer = split_attend(100.0, SIMPLE, pairs=10**9, head_dim=2)
    assert (longer.softmax.lo_ms, longer.softmax.hi_ms) == (0, pytest.approx(100 - PRODUCTS))
    assert (longer.qk.lo_ms, longer.qk.hi_ms) == (pytest.approx(PRODUCTS / 2), 50)
    overlapped = split_attend(20.0, SIMPLE, pairs=10**9, head_dim=2)
    assert (overlapped.softmax.lo_ms, overlapped.softmax.hi_ms) == (0, pytest.approx(SOFTMAX))


@given(
    time_ms=st.floats(0.01, 1e4),
    gpu=st.sampled_from(PEAKS),
    pairs=st.integers(1, 10**13),
    head_dim=st.sampled_from([16, 64, 80, 128, 256]),
)
def test_the_parts_add_up_and_lie_in_their_ranges(time_ms: float, gpu: Peak, pairs: int, head_dim: int) -> None:
    found = split_attend(time_ms, gpu, pairs=pairs, head_dim=head_dim)
    assert found.qk.ms + found.softmax.ms + found.av.ms == pytest.approx(time_ms)
    for share in (found.qk, found.softmax, found.av):
        slack = 1e-9 * time_ms
        assert -slack <= share.lo_ms <= share.ms + slack
        assert share.ms <= share.hi_ms + slack
        assert share.hi_ms <= time_ms + slack


@given(gpu=st.sampled_from(PEAKS), pairs=st.integers(1, 10**12), more=st.integers(0, 10**12))
def test_more_pairs_never_take_less_time(gpu: Peak, pairs: int, more: int) -> None:
    few = attend_bounds(gpu, pairs=pairs, head_dim=128, nbytes=0)
    many = attend_bounds(gpu, pairs=pairs + more, head_dim=128, nbytes=0)
    assert few.tensor_ms <= many.tensor_ms
    assert few.exponentials_ms <= many.exponentials_ms


@pytest.mark.parametrize(
    ("call", "given_", "says"),
    [
        (attend_bounds, {"pairs": -1}, "pairs is -1; it must not be negative"),
        (attend_bounds, {"nbytes": -1}, "nbytes is -1"),
        (attend_bounds, {"head_dim": 0}, "head_dim is 0; it must be at least 1"),
        (attend_bounds, {"products": 0}, "products is 0"),
        (attend_bounds, {"clock_mhz": 0.0}, "clock_mhz is 0.0; it must be above 0"),
        (attend_bounds, {"clock_mhz": float("nan")}, "clock_mhz is nan"),
    ],
)
def test_wrong_numbers_are_quoted(call: Callable[..., object], given_: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        call(SIMPLE, **({"pairs": 1, "head_dim": 64, "nbytes": 1} | given_))


def test_a_time_that_is_none_is_refused() -> None:
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(BadInput, match=f"time_ms is {wrong!r}"):
            achieved(wrong, flops=1, nbytes=1)
        with pytest.raises(BadInput, match=f"time_ms is {wrong!r}"):
            split_attend(wrong, SIMPLE, pairs=1, head_dim=64)
    with pytest.raises(BadInput, match="pairs is 0"):
        split_attend(1.0, SIMPLE, pairs=0, head_dim=64)
    with pytest.raises(BadInput, match="flops is -1"):
        achieved(1.0, flops=-1, nbytes=1)
