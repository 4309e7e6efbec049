"""What code changed of the state that a process shares is found, named and undone."""

from __future__ import annotations

import gc
import io
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.random  # numpy imports it when it is first used, and a state from before does not hold it
import pytest
import torch
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from attnbench.machine.state import State


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HERE_BEFORE", "as it was")
    monkeypatch.delenv("NEW_HERE", raising=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        yield


def environ(name: str, value: str) -> Callable[[], object]:
    return lambda: os.environ.__setitem__(name, value)


def skewed_clock() -> None:
    real = time.perf_counter
    time.perf_counter = lambda: real() / 10  # a clock that makes all calls ten times faster


def own_attention() -> None:
    torch.nn.functional.scaled_dot_product_attention = lambda q, k, v, **given: v  # as some packages tell users to


def slow_sums() -> None:
    real = torch.Tensor.__add__
    torch.Tensor.__add__ = lambda x, y: (time.sleep(0.001), real(x, y))[1]  # type: ignore[method-assign]  # as a careless package does


CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "threads": (lambda: torch.set_num_threads(2), "changed torch's number of threads from 1 to 2"),
    "dtype": (
        lambda: torch.set_default_dtype(torch.float64),
        "changed torch's default dtype from torch.float32 to torch.float64",
    ),
    "gradients": (lambda: torch.set_grad_enabled(False), "changed whether torch records gradients from True to False"),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True),
        "changed whether torch's algorithms are deterministic from False to True",
    ),
    "precision": (
        lambda: torch.set_float32_matmul_precision("medium"),
        "changed torch's precision of float32 products from 'highest' to 'medium'",
    ),
    "folder": (lambda: os.chdir("/"), "changed the working folder from "),
    "variable": (
        environ("HERE_BEFORE", "otherwise"),
        "changed the environment variable HERE_BEFORE from 'as it was' to 'otherwise'",
    ),
    "removed": (
        lambda: os.environ.__delitem__("HERE_BEFORE"),
        "changed the environment variable HERE_BEFORE from 'as it was' to none",
    ),
    "new": (environ("NEW_HERE", "1"), "changed the environment variable NEW_HERE from none to '1'"),
    "clock": (skewed_clock, "changed time.perf_counter"),
    "seed": (lambda: torch.manual_seed(5), "changed torch's random seed from 11 to 5"),
    "kernels": (
        lambda: torch.backends.cuda.enable_flash_sdp(False),
        "changed which kernels torch's attention may use from 'flash, ",
    ),
    "attention": (own_attention, "changed torch.nn.functional.scaled_dot_product_attention"),
    "autocast": (
        lambda: torch.set_autocast_enabled("cpu", True),
        "changed torch's autocast on a CPU from False to True",
    ),
    "anomalies": (
        lambda: torch.autograd.set_detect_anomaly(True),
        "changed torch's detection of anomalies from False to True",
    ),
    "functions": (lambda: BaseTorchFunctionMode().__enter__(), "changed torch's modes of functions from 0 to 1"),
    "operators": (lambda: TorchDispatchMode().__enter__(), "changed torch's modes of operators from 0 to 1"),
    "denormal": (
        lambda: torch.set_flush_denormal(True),
        "changed whether denormal numbers are flushed to 0 from False to True",
    ),
    "garbage": (gc.disable, "changed whether garbage is collected from True to False"),
    "mask": (lambda: os.umask(0o777), "changed the mask of new files' rights from "),
    "depth": (lambda: sys.setrecursionlimit(500), "changed the depth that calls may have from "),
    "threads' turns": (lambda: sys.setswitchinterval(0.5), "changed how often threads change from 0.005 to 0.5"),
    "output": (lambda: setattr(sys, "stdout", io.StringIO()), "changed sys.stdout from "),
    "sums": (slow_sums, "changed Tensor.__add__"),
    "signals": (lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN), "changed the handler of SIGTERM"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named_and_undone(name: str) -> None:
    change, said = CHANGES[name]
    before = State.now()
    change()
    assert before.restore().startswith(said)
    assert before.restore() == "", "nothing is left of it"


def test_a_greater_depth_is_no_change_since_torchs_compiler_asks_for_it() -> None:
    before, limit = State.now(), sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(limit + 1000)
        assert before.restore() == ""
    finally:
        sys.setrecursionlimit(limit)


def test_another_priority_is_named() -> None:
    before = State.now()
    os.nice(1)
    assert before.restore().startswith("changed its priority from ")  # undone where this process may


def test_several_changes_are_named_together() -> None:
    before = State.now()
    torch.set_num_threads(2)
    os.environ["HERE_BEFORE"] = "x"
    assert before.restore() == (
        "changed torch's number of threads from 1 to 2, the environment variable HERE_BEFORE from 'as it was' to 'x'"
    )


def test_drawing_random_numbers_is_no_change_and_is_undone() -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(1)), random.random(), float(np.random.rand())  # noqa: NPY002  # the shared generator

    before = State.now()
    first = draw()
    assert before.restore() == ""
    assert draw() == first


def test_what_libraries_set_at_their_first_use_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    before = State.now()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = "/somewhere"
    assert before.restore() == ""
    before = State.now()
    os.environ["NEW_HERE"] = "1"
    torch.manual_seed(12)
    assert before.restore(imported=True) == "", "as packages do while they are imported"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
