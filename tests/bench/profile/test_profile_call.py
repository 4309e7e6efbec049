"""Real profiles on the CPU: sleeps of known length, and phases of a real call."""

from __future__ import annotations

import gzip
import json
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attnbench
from attnbench.bench.profile.call import Profile, profile_call
from attnbench.kernels.errors import BadInput
from attnbench.kernels.phases import during, phase

CPU = torch.device("cpu")
SLACK = 12.0  # milliseconds that a sleep may take longer on a busy machine, in the best of three calls


def sleep(ms: float) -> None:
    time.sleep(ms / 1e3)


def least(profile: Profile) -> dict[tuple[str, str], float]:
    return {(p.pass_, p.phase): p.time.lo for p in profile.phases}


def test_sleeps_of_known_length_are_found_in_their_phases() -> None:
    def call() -> None:
        with phase("pool"):
            sleep(30)
        with phase("attend"):
            sleep(20)
            with phase("gather"):
                sleep(10)
            with phase("qk"):
                sleep(15)
        sleep(5)

    profile = profile_call(call, lambda: sleep(40), CPU, 3)
    found = least(profile)
    expected = {"pool": 30, "attend": 35, "gather": 10, "qk": 15, "other": 5}
    assert found.keys() == {("fwd", name) for name in expected}
    for name, ms in expected.items():
        assert ms <= found["fwd", name] <= ms + SLACK, name
    once = profile_call(call, lambda: sleep(40), CPU, 1)
    whole = sum(p.time.median for p in once.phases if p.parent is None)
    assert whole == pytest.approx(once.span_ms)
    assert 80 <= whole < 110  # what prepares the call is not in it


class _Sleepy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        sleep(10)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        sleep(20)
        with phase("merge"):
            sleep(30)
        return grad


def test_a_backward_pass_is_told_apart_and_takes_its_phase_from_the_forward_pass() -> None:
    x = torch.ones(3, requires_grad=True)

    def call() -> None:
        with during("forward"), phase("attend"):
            y = _Sleepy.apply(x)
        with during("backward"):
            sleep(15)
            y.sum().backward()

    def clear() -> None:
        x.grad = None

    found = least(profile_call(call, clear, CPU, 3))
    expected = {("fwd", "attend"): 10, ("bwd", "attend"): 20, ("bwd", "merge"): 30, ("bwd", "other"): 15}
    assert found.keys() - {("fwd", "other")} == expected.keys()
    for key, ms in expected.items():
        assert ms <= found[key] <= ms + SLACK, key


def test_a_call_that_takes_longer_than_the_stopwatch_said_is_complained_of() -> None:
    def call() -> None:
        with phase("pool"):
            sleep(30)

    profile = profile_call(call, lambda: None, CPU, 3, latency_ms=20.0)
    assert "the phases add up to" in profile.complaint
    assert "more than the unprofiled 20 ms" in profile.complaint
    near = profile_call(call, lambda: None, CPU, 3, latency_ms=profile.span_ms)
    assert near.complaint == "" or abs(near.span_ms / profile.span_ms - 1) > 0.05


@pytest.mark.parametrize(
    ("method", "expected"),
    [("vmoba", {"pool", "score", "select", "attend"}), ("sta", {"index", "attend"}), ("full", {"attend"})],
)
def test_the_phases_of_a_method_add_up_to_its_call(method: str, expected: set[str]) -> None:
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 6 * 12 * 16, 32, generator=random) for _ in range(3))
    taken: list[float] = []

    def call() -> Tensor:
        start = time.perf_counter()
        output: Tensor = attnbench.attention(q, k, v, method=method, grid=(6, 12, 16), engine="auto")
        taken.append((time.perf_counter() - start) * 1e3)
        return output

    call()
    profile = profile_call(call, lambda: None, CPU, 1)  # of several calls the medians of phases need not add up
    assert expected <= {p.phase for p in profile.phases if p.time.median > 0}
    whole = sum(p.time.median for p in profile.phases if p.parent is None)
    assert whole == pytest.approx(taken[-1], rel=0.05, abs=1.0)
    again = profile_call(call, lambda: None, CPU, 5)
    assert least(again)["fwd", "other"] < 0.25 * again.span_ms + 0.5


def test_the_trace_of_a_call_holds_its_phases(tmp_path: Path) -> None:
    def call() -> None:
        with phase("pool"):
            torch.ones(3)

    place = tmp_path / "trace.json.gz"
    profile_call(call, lambda: None, CPU, 2, trace=place)
    with gzip.open(place) as stream:
        events = json.load(stream)["traceEvents"]
    assert sum(event.get("name") == "attnbench::pool" for event in events) == 3  # one before the recorded two
    assert sum(event.get("name") == "attnbench::repeat" for event in events) == 2


def test_no_repeats_are_refused() -> None:
    with pytest.raises(BadInput, match="repeats is 0; a profile needs at least 1"):
        profile_call(lambda: None, lambda: None, CPU, 0)


def test_a_trace_that_the_disk_cut_off_is_removed_and_said(tmp_path: Path) -> None:
    def call() -> None:
        with phase("attend"):
            torch.ones(8).sum()

    place, (soft, hard) = tmp_path / "trace.json.gz", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        profile = profile_call(call, lambda: None, CPU, 2, trace=place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (note,) = profile.notes
    assert note.startswith("no trace was written: ")
    assert not place.exists()
    assert profile.phases
