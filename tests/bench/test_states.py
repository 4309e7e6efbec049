"""Methods with a state: the steady step is timed with the state of the steps before it, and the refresh beside it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.bench.bench import Bench
from attnbench.bench.branch import Branch, check_branch
from attnbench.bench.jobs import Job, make_agenda
from attnbench.bench.request import Request
from attnbench.bench.rows import make_row
from attnbench.bench.selection import check_selection
from attnbench.bench.states import State, warmed_up
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.methods import Call, Cycle, get_method, make_settings
from attnbench.methods.kit import keep_text, partition_ranges
from attnbench.methods.per_head import state_of
from attnbench.results.records.cells import Row
from attnbench.results.run import NoProgress

CYCLE = Cycle(warm=(0, 1), steady=2, refresh=5, every=4)


def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keep the blocks that the last call chose, and choose the next by the sums of q: a state of one mask a head."""
    partition = partition_ranges(call.layout, 24, q.device)
    sums = torch.stack(
        [q[:, :, a:b].sum((2, 3)) for a, b in zip(partition.offsets[:-1], partition.offsets[1:], strict=True)], -1
    )
    chosen = (sums > sums.mean(-1, keepdim=True))[:, :, None] | torch.eye(sums.shape[-1], dtype=torch.bool)
    keep = chosen if call.state is None else call.state["keep"] | torch.eye(sums.shape[-1], dtype=torch.bool)
    steps = ((0,) if call.state is None else call.state["steps"]) + (call.step,)
    pattern = BlockPattern(partition.offsets, partition.offsets, keep_text(partition, keep))
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, state={"keep": chosen, "steps": steps})


def writing(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
    if call.state is not None:
        call.state["keep"].logical_not_().logical_not_()
    return plan(settings, q, k, call)


def measure(planner: Any = plan, rounds: int = 3, cycle: Cycle = CYCLE) -> Bench:
    request = Request(
        methods={"moba": {}, "sta": {"tile": (2, 3, 4)}}, grid="3x6x10", heads=1, head_dim=32, inputs="gaussian",
        device="cpu", stability_calls=2,
    )  # fmt: skip
    agenda = make_agenda(request)
    first, *others = agenda.jobs
    method = dataclasses.replace(
        first.method, name="suspect", plan=planner, cycle=lambda settings, layer: cycle, twin=None
    )
    of = Bench(dataclasses.replace(agenda, jobs=(Job(method, first.settings, 0), *others)), NoProgress())
    of.prepare()
    for number in range(rounds):
        of.time_round(number, rounds, lambda sample: None)
    return of


def test_the_steady_step_is_timed_with_the_state_of_the_steps_before_it() -> None:
    of = measure()
    trial, other = of.trials
    assert (trial.verdict, len(trial.samples)) == (None, 3), trial.reason
    row = make_row(of, trial, "r")
    assert row.step == CYCLE.steady
    assert row.latency_ms is not None
    assert row.refresh_ms is not None
    assert row.refresh_every == 4
    assert row.latency_amortised_ms == pytest.approx((3 * row.latency_ms + row.refresh_ms) / 4)
    assert make_row(of, other, "r").step is None
    assert make_row(of, other, "r").refresh_ms is None
    state = of.workload.state(trial.job)
    assert state is not None
    assert state.value["steps"] == (0, 0, 1)


def test_a_method_that_writes_into_its_state_gets_no_latency() -> None:
    trial = measure(writing).trials[0]
    assert trial.verdict == "incorrect"
    assert "the call writes into the state it got" in trial.reason


@pytest.mark.parametrize(("step", "name"), [(CYCLE.refresh, "refresh"), (7, "step of the third kind")])
def test_a_step_beside_the_steady_one_that_is_another_when_it_is_timed_is_found(step: int, name: str) -> None:
    made_before: list[None] = []

    def planner(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        made = plan(settings, q, k, call)
        if call.step != step:
            return made
        made_before.append(None)
        nothing = torch.eye(made.pattern.keep.shape[-1], dtype=torch.bool)[None, None]
        pattern = dataclasses.replace(made.pattern, keep=nothing)
        return made if len(made_before) == 1 else dataclasses.replace(made, pattern=pattern)

    trial = measure(planner, cycle=dataclasses.replace(CYCLE, other=7, other_every=4)).trials[0]
    assert (trial.verdict, trial.other_ms) == ("incorrect", None)
    assert f"in a timed {name} the selection differs from that of the verified call" in trial.reason


def test_states_of_other_inputs_are_other_states() -> None:
    of = measure(rounds=1)
    job = of.trials[0].job
    found = [of.workload.state(job, of.workload.lend(number)) for number in (0, 1, 0)]
    assert all(isinstance(state, State) for state in found)
    assert found[0] is found[2] is not found[1]


@pytest.mark.parametrize("name", ["svg2", "ditfastattn"])
def test_methods_with_a_state_are_measured_and_verified(name: str) -> None:
    request = Request(
        methods={name: {}}, grid="3x6x10", heads=2, kv_heads=2, head_dim=16, inputs="gaussian", device="cpu",
        stability_calls=2,
    )  # fmt: skip
    of = Bench(make_agenda(request), NoProgress())
    of.prepare()
    of.time_round(0, 1, lambda sample: None)
    trial = of.trials[0]
    assert trial.verdict is None, trial.reason
    row = make_row(of, trial, "r")
    assert (row.step, row.refresh_every, row.verdict) == (1, 50, "ok")
    assert row.refresh_ms is not None


def row_of_schedule(steps: dict[str, str], path: Path) -> Row:
    path.write_text(json.dumps({"0": steps}))
    request = Request(
        methods={"ditfastattn": {"schedule": str(path)}}, grid="3x6x10", heads=2, kv_heads=2, head_dim=16,
        inputs="gaussian", device="cpu", stability_calls=2,
    )  # fmt: skip
    of = Bench(make_agenda(request), NoProgress())
    of.prepare()
    for number in range(2):
        of.time_round(number, 2, lambda sample: None)
    return make_row(of, of.trials[0], "r")


def test_a_step_of_a_third_kind_is_timed_and_counts_as_often_as_the_schedule_has_it(tmp_path: Path) -> None:
    steps = {"1": "window", "2": "share", "3": "full", "4": "share"}
    row = row_of_schedule(steps, tmp_path / "s.json")
    assert (row.verdict, row.reason, row.refresh_every, row.other_every) == ("ok", "", 2.5, 2.5)
    assert row.latency_ms is not None
    assert row.refresh_ms is not None
    assert row.other_ms is not None
    assert row.latency_amortised_ms == pytest.approx((row.latency_ms + 2 * row.refresh_ms + 2 * row.other_ms) / 5)
    without = row_of_schedule({"1": "window"}, tmp_path / "s.json")
    assert (without.refresh_every, without.other_ms, without.other_every) == (2, None, None)


def test_a_layer_whose_steps_are_all_full_is_measured(tmp_path: Path) -> None:
    row = row_of_schedule({"1": "full", "2": "full"}, tmp_path / "s.json")
    assert (row.verdict, row.reason, row.density, row.engine) == ("ok", "", 1.0, "sdpa")
    assert row.latency_ms is not None
    assert row.numerical_error is not None
    assert "reference:attend" in (row.kernels or ""), "the window, for the residual, on an engine that can run it"


def test_a_layer_that_shares_its_last_output_is_measured_without_a_pair(tmp_path: Path) -> None:
    row = row_of_schedule({"1": "share", "2": "share"}, tmp_path / "s.json")
    assert (row.verdict, row.reason, row.density, row.empty_rows) == ("ok", "", 0.0, 180 * row.heads_timed)
    assert row.latency_ms is not None
    assert (row.numerical_error, row.numerical_tolerance, row.flops_branch) == (None, None, 0)
    assert (row.stability, row.translation) == ("deterministic", None)


def test_a_step_that_returns_its_state_looks_at_it_and_one_that_returns_a_constant_does_not(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"0": {"1": "share"}}')
    q, k, v = torch.randn(3, 1, 2, 24, 8, generator=torch.Generator().manual_seed(0))
    method = get_method("ditfastattn")
    settings = method.resolve(make_settings(method, {"schedule": str(path)}), Layout(Grid(2, 3, 4)))
    state = {"output": v, "residual": v}
    call = Call(Layout(Grid(2, 3, 4)), 0, 1, state)
    plan = method.plan(settings, q, k, call)
    for finish, blind in ((method.finish, False), (lambda *given: v.to(given[-1].dtype), True)):
        branch = Branch(dataclasses.replace(method, finish=finish), settings, call, plan, 1.0, None, ())
        found = check_branch(branch, q, k, v, torch.zeros_like(v), v, 0)
        assert (found.blind, found.runs, found.error) == (blind, 3, 0)


def test_a_plan_with_a_state_is_compared_with_float64_head_by_head() -> None:
    generator = torch.Generator().manual_seed(2)
    q, k = (torch.randn(1, heads, 90, 8, generator=generator) for heads in (4, 2))
    where: dict[str, Any] = {"method": "svg2", "grid": (3, 5, 6), "q_clusters": 4, "k_clusters": 6}
    method = get_method("svg2")
    assert method.cycle is not None
    arguments = {name: value for name, value in where.items() if name != "method"}
    state = warmed_up(method, method.cycle(None, 0), arguments, q, k, k, "reference")
    from attnbench import select

    plan = select(q, k, state=state, **where)
    found = check_selection(q, k, plan, where | {"state": state})
    assert found is not None
    assert found.problem is None
    other = check_selection(q, k, plan, where | {"state": {name: x.flip(1) for name, x in state.items()}})
    assert other is not None
    assert other.problem is not None, "the state of another head makes another plan"
    cut = state_of(state | {"few": torch.ones(3), "words": ("a", 1)}, 0, 3, heads=4, batch=2)
    assert torch.equal(cut["k_centroids"], state["k_centroids"][:, 1:].double().expand(2, -1, -1, -1))
    assert torch.equal(cut["q_centroids"], state["q_centroids"][:, 3:].double().expand(2, -1, -1, -1))
    assert cut["words"] == ("a", 1)
