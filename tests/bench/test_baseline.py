"""The search for the dense baseline, apart from what its full-size trials do."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench import api
from attnbench.bench import baseline
from attnbench.bench.baseline import Attempt, Found, find_dense
from attnbench.kernels import engines
from attnbench.kernels.engines import Engine, Task
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.engines.sdpa import SDPA
from attnbench.kernels.plan import Plan


def slowed(name: str, seconds: float) -> Engine:
    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        time.sleep(seconds)
        return SDPA.attend(q, k, v, plan, scale, return_lse)

    return dataclasses.replace(SDPA, name=name, attend=attend)


def search(outcomes: dict[str, Attempt], chosen: str | None = None) -> tuple[Found, list[str]]:
    """Look for a baseline among what is installed; return it, and who got a full-size trial."""
    q, k, v = torch.randn(3, 1, 2, 64, 16)
    tried: list[str] = []

    def attempt(name: str) -> Attempt:
        tried.append(name)
        return outcomes[name]

    plan = api.select(q, k, method="full", grid=(4, 4, 4))
    return find_dense(plan, Task.of(q, k, v), (q, k, v), attempt, chosen), tried


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [slowed("late", 0.03), slowed("quick", 0.0), dataclasses.replace(REFERENCE, dense=False)]
    monkeypatch.setattr(engines, "ENGINES", {engine.name: engine for engine in chosen})


@pytest.mark.usefixtures("three")
def test_on_a_cpu_only_the_fastest_of_the_small_trials_gets_a_full_size_one() -> None:
    found, tried = search({"quick": Attempt(2.0)})
    assert (found, tried) == (Found("quick", ()), ["quick"])


@pytest.mark.usefixtures("three")
def test_an_engine_that_was_chosen_before_is_tried_alone() -> None:
    found, tried = search({"late": Attempt(9.0)}, "late")
    assert (found, tried) == (Found("late", ()), ["late"])


@pytest.mark.usefixtures("three")
def test_an_engine_with_a_problem_is_no_baseline_and_the_problem_is_told() -> None:
    found, _ = search({"quick": Attempt(2.0, "sampled rows differ")})
    assert found.engine is None
    assert found.complaint == "quick: sampled rows differ"


def test_without_dense_engines_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "ENGINES", {"reference": dataclasses.replace(REFERENCE, dense=False)})
    found, tried = search({})
    assert (found.engine, found.complaint, tried) == (None, "no engine runs it here", [])


def test_on_a_gpu_all_that_come_close_get_a_full_size_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU small trials are too rough to choose by. Here they are made up, of tensors on no device."""
    seconds = {"near": 3.9, "fastest": 1.0, "far": 4.1}
    monkeypatch.setattr(engines, "ENGINES", {name: slowed(name, 0.0) for name in seconds})
    monkeypatch.setattr(baseline, "_small_trials", lambda names, qkv, *, backward: seconds)
    q, k, v = torch.empty(3, 1, 2, 64, 16, device="meta")
    plan = api.select(*torch.randn(2, 1, 2, 64, 16), method="full", grid=(4, 4, 4))
    whole = {"near": Attempt(1.0), "fastest": Attempt(2.0)}
    assert find_dense(plan, Task.of(q, k, v), (q, k, v), whole.__getitem__) == Found("near", ())


@pytest.mark.parametrize(
    ("unstable", "confirmed", "found"),
    [
        ((), ["fastest"], Found("fastest", ())),
        (("fastest",), ["fastest", "near"], Found("near", ("fastest: unstable",))),
        (("fastest", "near"), ["fastest", "near"], Found(None, ("fastest: unstable", "near: unstable"))),
    ],
)
def test_the_fastest_is_confirmed_and_the_next_one_if_that_fails(
    unstable: tuple[str, ...], confirmed: list[str], found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes, asked = {"near": Attempt(2.0), "fastest": Attempt(1.0)}, []
    monkeypatch.setattr(baseline, "promising_engines", lambda plan, task, qkv: list(outcomes))

    def confirm(name: str) -> Attempt:
        asked.append(name)
        return Attempt(9.0, "unstable" if name in unstable else "")

    q, k, v = torch.randn(3, 1, 2, 64, 16)
    plan = api.select(q, k, method="full", grid=(4, 4, 4))
    assert find_dense(plan, Task.of(q, k, v), (q, k, v), outcomes.__getitem__, None, confirm) == found
    assert asked == confirmed


@pytest.mark.usefixtures("three")
def test_a_single_engine_is_tried_thoroughly_at_once() -> None:
    def never(name: str) -> Attempt:
        raise AssertionError(name)

    q, k, v = torch.randn(3, 1, 2, 64, 16)
    plan = api.select(q, k, method="full", grid=(4, 4, 4))
    assert find_dense(plan, Task.of(q, k, v), (q, k, v), never, "late", lambda name: Attempt(1.0)).engine == "late"
