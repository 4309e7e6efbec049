"""Real profiles on the CPU: sleeps of known length, and phases of a real call."""

from __future__ import annotations

import gzip
import json
import resource
import time
from collections.abc import Callable
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
SLACK = 1.0  # milliseconds by which two clocks of one machine may differ


class Sleeper:
    """Sleeps, and knows of the latest call how long each sleep took: on a busy machine longer than was asked for."""

    def __init__(self) -> None:
        self.slept: dict[tuple[str, str], float] = {}
        self.whole = 0.0

    def sleep(self, key: tuple[str, str], ms: float) -> None:
        start = time.perf_counter()
        time.sleep(ms / 1e3)
        self.slept[key] = (time.perf_counter() - start) * 1e3

    def timed(self, call: Callable[[], object]) -> Callable[[], None]:
        """Return the call, with a clock from its begin to its end."""

        def run() -> None:
            start = time.perf_counter()
            call()
            self.whole = (time.perf_counter() - start) * 1e3

        return run

    def check(self, profile: Profile) -> None:
        """Check that every sleep is found in its phase, and in no other."""
        found = {(p.pass_, p.phase): p.time.median for p in profile.phases}
        parents = {(p.pass_, p.phase): (p.pass_, p.parent) for p in profile.phases}
        for key in self.slept:
            parts = [name for name, parent in parents.items() if parent == key]
            own = sum(self.slept[name] for name in (key, *parts))
            others = sum(self.slept.values()) - own
            assert own - SLACK <= found[key], key
            assert key[1] == "other" or found[key] <= self.whole - others + SLACK, key


def test_sleeps_of_known_length_are_found_in_their_phases() -> None:
    sleeper = Sleeper()

    def call() -> None:
        with phase("pool"):
            sleeper.sleep(("fwd", "pool"), 30)
        with phase("attend"):
            sleeper.sleep(("fwd", "attend"), 20)
            with phase("gather"):
                sleeper.sleep(("fwd", "gather"), 10)
            with phase("qk"):
                sleeper.sleep(("fwd", "qk"), 15)
        sleeper.sleep(("fwd", "other"), 5)

    def prepare() -> None:
        with phase("permute"):
            time.sleep(0.01)

    profile = profile_call(sleeper.timed(call), prepare, CPU, 1)
    assert {(p.pass_, p.phase) for p in profile.phases} == sleeper.slept.keys(), "what prepares the call is not in it"
    sleeper.check(profile)
    assert sum(p.time.median for p in profile.phases if p.parent is None) == pytest.approx(profile.span_ms)


class _Sleepy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sleeper: Sleeper) -> Tensor:
        ctx.sleeper = sleeper
        sleeper.sleep(("fwd", "attend"), 10)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.sleeper.sleep(("bwd", "attend"), 20)
        with phase("merge"):
            ctx.sleeper.sleep(("bwd", "merge"), 30)
        return grad, None


def test_a_backward_pass_is_told_apart_and_takes_its_phase_from_the_forward_pass() -> None:
    x, sleeper = torch.ones(3, requires_grad=True), Sleeper()

    def call() -> None:
        with during("forward"), phase("attend"):
            y = _Sleepy.apply(x, sleeper)
        with during("backward"):
            sleeper.sleep(("bwd", "other"), 15)
            y.sum().backward()

    def clear() -> None:
        x.grad = None

    profile = profile_call(sleeper.timed(call), clear, CPU, 1)
    assert {(p.pass_, p.phase) for p in profile.phases} - {("fwd", "other")} == sleeper.slept.keys()
    sleeper.check(profile)


def test_a_call_that_takes_longer_than_the_stopwatch_said_is_complained_of() -> None:
    def call() -> None:
        with phase("pool"):
            time.sleep(0.03)

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
    for _ in range(5):  # where the machine takes the core away between two clocks, they differ
        profile = profile_call(call, lambda: None, CPU, 1)  # of several calls the medians of phases need not add up
        whole = sum(p.time.median for p in profile.phases if p.parent is None)
        if near := whole == pytest.approx(taken[-1], rel=0.05, abs=1.0):
            break
    assert near, f"the phases add up to {whole:.4g} ms, and the call took {taken[-1]:.4g} ms"
    assert expected <= {p.phase for p in profile.phases if p.time.median > 0}
    again = profile_call(call, lambda: None, CPU, 5)
    (rest,) = (p.time.lo for p in again.phases if p.phase == "other")
    assert rest < 0.25 * again.span_ms + 0.5


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
