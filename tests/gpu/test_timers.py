"""The timers on a GPU: they agree where they must, and say what each of them does not see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.bench.profile.cupti import make_stopwatch
from attnbench.kernels.errors import Unsupported

pytestmark = [pytest.mark.gpu, pytest.mark.alone]

CUDA = torch.device("cuda")


def product() -> Callable[[], object]:
    """Over a millisecond of one kernel, of which launching and waiting take a few percent."""
    a, b, out = torch.randn(3, 8192, 8192, device=CUDA, dtype=torch.bfloat16).unbind()
    return lambda: torch.mm(a, b, out=out)


def many_small() -> Callable[[], object]:
    """Kernels of a few microseconds each, which the CPU launches more slowly than the GPU runs them."""
    x: Tensor = torch.ones(1024, device=CUDA)

    def call() -> object:
        for _ in range(200):
            x.add_(1)
        return x

    return call


def median_ms(timer: str, call: Callable[[], object]) -> float:
    stopwatch = make_stopwatch(CUDA, timer)
    call()
    return sorted(stopwatch.time(call, warm=False).cold_ms for _ in range(7))[3]


@pytest.mark.parametrize("timer", ["cupti", "graph", "wall"])
def test_all_timers_agree_on_one_long_kernel(timer: str) -> None:
    call = product()
    assert median_ms(timer, call) == pytest.approx(median_ms("events", call), rel=0.15)


@pytest.mark.parametrize("timer", ["events", "cupti", "graph"])
def test_launching_is_not_in_the_latency_of_many_small_kernels(timer: str) -> None:
    call = many_small()
    assert median_ms(timer, call) < 0.8 * median_ms("wall", call)


def test_the_head_start_covers_what_enqueuing_takes_and_that_is_told() -> None:
    call = many_small()
    call()
    taken = make_stopwatch(CUDA, "events").time(call)
    assert taken.host_ms is not None
    assert 0.1 < taken.host_ms < 40
    assert taken.warm_ms is not None


def test_a_call_that_waits_for_the_gpu_has_no_time_to_enqueue() -> None:
    x = torch.ones(8, device=CUDA)
    assert make_stopwatch(CUDA, "events").time(lambda: x.sum().item()).host_ms is None


def test_a_call_that_waits_for_the_gpu_cannot_be_captured() -> None:
    x = torch.ones(8, device=CUDA)
    with pytest.raises(Unsupported, match="cannot be captured in a CUDA graph"):
        make_stopwatch(CUDA, "graph").time(lambda: x.sum().item())


def test_back_to_back_calls_show_what_the_cpu_costs() -> None:
    call = many_small()
    stopwatch = make_stopwatch(CUDA, "events")
    call()
    assert stopwatch.back_to_back(call, lambda: None, 10) > 0.9 * stopwatch.time(call).cold_ms


@pytest.mark.parametrize("timer", ["events", "cupti", "graph", "wall"])
@pytest.mark.parametrize("direction", ["fwd", "fwdbwd"])
def test_a_run_is_timed_by_the_timer_that_was_asked_for(timer: str, direction: str, tmp_path: object) -> None:
    rows = attnbench.run(
        "sta", grid="6x16x32", heads=2, head_dim=128, inputs="gaussian", rounds=3, timer=timer, direction=direction,
        isolate=False, out=f"{tmp_path}/run",
    )  # fmt: skip
    assert set(rows["verdict"]) == {"ok"}, list(rows["reason"])
    assert set(rows["timer"]) == {timer}
