"""Methods and engines that want a latency which they do not deserve: each is caught, and called by what it does."""

from __future__ import annotations

import dataclasses
import inspect
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.bench.bench import Bench
from attnbench.bench.jobs import Job, make_agenda
from attnbench.bench.request import Request
from attnbench.bench.trial import Trial
from attnbench.kernels import engines
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.engines.sdpa import SDPA
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.witness import launched
from attnbench.machine.stopwatch import Stopwatch
from attnbench.methods import Call, Method, get_method
from attnbench.results.run import NoProgress

HONEST = get_method("moba")
SETTINGS = {"block_size": 24, "topk": 2}
Planner = Callable[[Any, Tensor, Tensor, Call], Plan]


@pytest.fixture(autouse=True)
def two_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the engines of every machine; sdpa is the one dense engine."""
    use(monkeypatch)


def use(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    mine = dataclasses.replace(REFERENCE, dense=False, **changes)
    monkeypatch.setattr(engines, "ENGINES", {engine.name: engine for engine in (SDPA, mine)})


def measure(plan: Planner = HONEST.plan, *, rounds: int = 9, direction: str = "fwd", **changes: Any) -> Bench:
    """Measure a method that plans so, beside STA."""
    request = Request(
        methods={"moba": SETTINGS, "sta": {"tile": (2, 3, 4)}}, grid="3x6x10", heads=1, head_dim=32, inputs="gaussian",
        device="cpu", stability_calls=2, direction=direction,
    )  # fmt: skip
    agenda = make_agenda(request)
    first, *others = agenda.jobs
    method: Method = dataclasses.replace(first.method, name="suspect", plan=plan, **changes)
    of = Bench(dataclasses.replace(agenda, jobs=(Job(method, first.settings, 0), *others)), NoProgress())
    of.prepare()
    for number in range(rounds):
        of.time_round(number, rounds, lambda sample: None)
    for neighbour in (*of.trials[1:], of.baseline):
        assert neighbour is not None
        assert neighbour.verdict is None, "nobody else suffers"
        assert len(neighbour.samples) == rounds
    return of


def caught(of: Bench, *words: str) -> Trial:
    trial = of.trials[0]
    assert trial.verdict == "incorrect", trial.reason
    for word in words:
        assert word in trial.reason
    return trial


def test_an_honest_method_is_not_accused() -> None:
    for direction in ("fwd", "fwdbwd"):
        trial = measure(direction=direction).trials[0]
        assert (trial.verdict, len(trial.samples)) == (None, 9)
        assert trial.stability is not None
        assert trial.stability.found == "deterministic"
        assert set(trial.set_facts) == {0, 1, 2}


def keeping(key: Callable[[Tensor, Tensor], Any]) -> tuple[Planner, list[int]]:
    """Plan once for every value of ``key``, and count how often."""
    kept: dict[Any, Plan] = {}
    planned: list[int] = []

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        mine = (q.dtype, key(q, k))
        if mine not in kept:
            planned.append(1)
            kept[mine] = HONEST.plan(settings, q, k, call)
        return kept[mine]

    return plan, planned


def test_a_plan_kept_by_address_is_made_anew_in_every_timed_call() -> None:
    plan, planned = keeping(lambda q, k: (q.data_ptr(), k.data_ptr()))
    trial = measure(plan).trials[0]
    if trial.verdict is None:
        assert len(planned) >= len(trial.samples) == 9
    else:
        assert "selection differs" in trial.reason


@pytest.mark.parametrize(
    "key",
    [
        lambda q, k: tuple(q[0, 0, 0].abs().tolist()),
        lambda q, k: float(q.norm()),  # rounded, it was the same for two input sets in 1 of 40 runs
        lambda q, k: tuple(round(float(x), 3) for x in torch.nn.functional.normalize(k[0, 0, :3], dim=-1).norm(dim=0)),
    ],
    ids=["by absolute values", "by norm", "by shares of a norm"],
)
def test_a_plan_kept_by_what_signs_leave_alone_is_made_anew_in_every_timed_call(
    key: Callable[[Tensor, Tensor], Any],
) -> None:
    plan, planned = keeping(key)
    trial = measure(plan).trials[0]
    assert trial.verdict is None, trial.reason
    assert trial.disguise == "scales"
    assert len(planned) >= len(trial.samples) == 9


@pytest.mark.parametrize("attempt", range(4))  # before, half of the attempts ended in incorrect
def test_a_choice_by_v_that_is_nearly_a_tie_falls_as_it_does_without_copies(attempt: int) -> None:
    del attempt
    narrow = dataclasses.replace(HONEST.settings(**SETTINGS), topk=1)

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        assert call.v is not None
        sizes = call.v.double().square().sum((0, 1, 2)).roll(-1) / call.v.double().square().sum((0, 1, 2))
        # Each channel is about as large as the next: as SVG compares errors of outputs that are nearly alike.
        return HONEST.plan(settings if bool(sizes[0] < 1.5) else narrow, q, k, call)

    trial = measure(plan, needs_v=True).trials[0]
    assert (trial.verdict, trial.disguise) == (None, "scores"), trial.reason


def test_a_plan_kept_by_what_the_first_numbers_are_is_made_anew_in_every_timed_call() -> None:
    plan, planned = keeping(lambda q, k: tuple(q[0, 0, 0].tolist()))
    trial = measure(plan).trials[0]
    assert trial.verdict is None
    assert len(planned) >= len(trial.samples) == 9


def test_a_plan_kept_by_shape_is_not_that_of_other_inputs() -> None:
    plan, _ = keeping(lambda q, k: q.shape)
    caught(measure(plan), "the selection differs from the rule in float64")


def test_work_that_is_left_out_after_the_third_call() -> None:
    calls: list[Plan] = []

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        if q.dtype == torch.float64 or q.shape[2] < 180:
            return HONEST.plan(settings, q, k, call)
        if len(calls) < 5:
            calls.append(HONEST.plan(settings, q, k, call))
        return calls[-1]

    caught(measure(plan), "in a timed call the selection differs")


def nearest(call: Call, q: Tensor) -> Plan:
    """A plan that costs nothing to choose."""
    edges = torch.tensor([*range(0, q.shape[2], 24), q.shape[2]])
    keep = torch.eye(len(edges) - 1, dtype=torch.bool)[None, None]
    return Plan(call.layout, q.shape[0], q.shape[1], BlockPattern(edges, edges, keep))


def under_the_clock() -> bool:
    return any("stopwatch" in frame.filename or "timers" in frame.filename for frame in inspect.stack(0))


def test_a_rule_that_is_another_for_good_once_the_clock_has_run() -> None:
    ran: list[None] = []

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        if under_the_clock():
            ran.append(None)
        return nearest(call, q) if ran else HONEST.plan(settings, q, k, call)  # in float64 too

    caught(measure(plan), "in a timed call the selection differs from that of the verified call")


def test_a_plan_that_is_another_while_the_clock_runs() -> None:
    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        honest = HONEST.plan(settings, q, k, call)
        if not under_the_clock():
            return honest
        keep = torch.zeros_like(honest.pattern.keep)
        keep[..., 0] = True
        return dataclasses.replace(honest, pattern=dataclasses.replace(honest.pattern, keep=keep))

    caught(measure(plan), "in a timed call the selection differs")


@pytest.mark.parametrize("name", ["q", "k"])
def test_a_plan_that_writes_into_its_inputs(name: str) -> None:
    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        made = HONEST.plan(settings, q, k, call)
        {"q": q, "k": k}[name].zero_()
        return made

    of = measure(plan)
    assert of.trials[0].verdict == "incorrect"
    assert f"writes into {name}" in of.trials[0].reason


def test_writing_behind_the_counter_is_seen_too() -> None:
    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        made = HONEST.plan(settings, q, k, call)
        q.data[0, 0, -1, -1] += 1
        return made

    caught(measure(plan), "writes into q")


@pytest.mark.parametrize("name", ["q", "v"])
def test_an_engine_that_writes_only_in_timed_calls(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        result = REFERENCE.attend(q, k, v, plan, scale, return_lse)
        if plan.pattern.keep.shape[2] == 180:
            calls.append(1)
            if len(calls) > 5:
                {"q": q, "v": v}[name].mul_(1)
        return result

    use(monkeypatch, attend=attend)
    caught(measure(), f"writes into {name}")


class Flattering(Plan):
    """Says of itself what it likes."""

    @property
    def density(self) -> float:
        return 0.01

    @property
    def pairs(self) -> int:
        return 7

    @property
    def nbytes(self) -> int:
        return 1


def test_density_and_pairs_are_counted_not_believed() -> None:
    def flattering(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        plan = HONEST.plan(settings, q, k, call)
        fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
        return Flattering(**fields | {"selection_flops": 1})

    def seeded(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        plan = dataclasses.replace(HONEST.plan(settings, q, k, call), selection_flops=1)
        plan.__dict__["pairs_by_head"] = torch.ones(1, 1, dtype=torch.int64)
        return plan

    honest = measure().trials[0].facts
    assert honest is not None
    for plan in (flattering, seeded):
        told = measure(plan).trials[0].facts
        assert told is not None
        assert (told.density, told.pairs, told.nbytes) == (honest.density, honest.pairs, honest.nbytes)
        assert told.selection_flops >= 2 * 180 * 8 * 32, "the products that choose blocks are counted"


@pytest.mark.parametrize("stated", [-1, -1e9, math.nan, math.inf, 10**40, 0.5, None, "many"])
def test_operations_that_no_selection_has_are_a_verdict(stated: Any) -> None:
    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        return dataclasses.replace(HONEST.plan(settings, q, k, call), selection_flops=stated)

    caught(measure(plan), "selection_flops", repr(stated))


def test_a_method_that_takes_other_blocks_in_float64() -> None:
    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        other = dataclasses.replace(settings, block_size=16) if q.dtype == torch.float64 else settings
        return HONEST.plan(other, q, k, call)

    caught(measure(plan), "the selection differs from the rule in float64")


def test_a_selection_of_whole_blocks_is_checked_too() -> None:
    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        n = q.shape[2]
        edges = torch.tensor([*range(0, n, 24), n])
        best = q[:, :, edges[:-1]] @ k[:, :, edges[:-1]].transpose(-1, -2)
        if q.dtype == torch.float64:
            best = -best
        keep = best >= best.median(-1, keepdim=True).values
        return Plan(call.layout, q.shape[0], q.shape[1], BlockPattern(edges, edges, keep))

    caught(measure(plan), "the selection differs from the rule in float64")


class _Skewed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 1.05


@pytest.mark.parametrize("which", ["dq", "dk", "dv"])
def test_a_gradient_that_is_wrong_at_full_size_only(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        tensors = {"dq": q, "dk": k, "dv": v}
        if q.shape[2] == 180 and q.requires_grad and plan.pattern.keep.shape[2] == 180:  # the twin has 132 tokens
            tensors[which] = _Skewed.apply(tensors[which])  # type: ignore[no-untyped-call]  # torch leaves apply untyped
        return REFERENCE.attend(*tensors.values(), plan, scale, return_lse)

    use(monkeypatch, attend=attend)
    caught(measure(direction="fwdbwd"), "at full size", which)


def test_kernels_that_only_timed_calls_run(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        if plan.pattern.keep.shape[2] == 180:
            calls.append(1)
            launched("fast" if len(calls) > 5 else "exact")
        return REFERENCE.attend(q, k, v, plan, scale, return_lse)

    use(monkeypatch, attend=attend)
    caught(measure(), "the timed call does not run what the verified one ran", "fast")


def test_an_output_that_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[Any, Any] = {}

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        if plan.pattern.keep.shape[2] != 180:
            return REFERENCE.attend(q, k, v, plan, scale, return_lse)
        if q.shape not in kept:
            kept[q.shape] = REFERENCE.attend(q, k, v, plan, scale, return_lse)
        launched("reference:forward")
        return kept[q.shape]

    use(monkeypatch, attend=attend)
    caught(measure(), "sampled rows of a timed call differ")


@pytest.mark.parametrize(
    ("direction", "words"),
    [("fwd", "sampled rows of a timed call differ"), ("fwdbwd", "does not run what the verified")],
)
def test_work_that_is_left_out_while_calls_come_back_to_back(
    direction: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick: list[Any] = []
    take_time = Stopwatch.back_to_back

    def back_to_back(self: Stopwatch, *given: Any) -> float:
        quick.append(None)
        try:
            return take_time(self, *given)
        finally:
            quick.clear()

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        if not quick or plan.pattern.keep.shape[2] != 180:
            return REFERENCE.attend(q, k, v, plan, scale, return_lse)
        launched("reference:forward")
        return (q + k + v) * 0, q.new_zeros(q.shape[:3])

    monkeypatch.setattr(Stopwatch, "back_to_back", back_to_back)
    use(monkeypatch, attend=attend)
    trial = caught(measure(direction=direction), words)
    assert trial.eager is None


def test_a_plan_kept_by_address_is_made_anew_in_every_call_back_to_back(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, planned = keeping(lambda q, k: (q.data_ptr(), k.data_ptr()))
    counts: list[int] = []
    take_time = Stopwatch.back_to_back

    def back_to_back(self: Stopwatch, *given: Any) -> float:
        before = len(planned)
        try:
            return take_time(self, *given)
        finally:
            counts.append(len(planned) - before)

    monkeypatch.setattr(Stopwatch, "back_to_back", back_to_back)
    monkeypatch.setattr("attnbench.bench.bench.eager_calls", lambda seconds: 8)
    trial = measure(plan, rounds=1).trials[0]
    if trial.verdict is None:
        assert trial.eager is not None
        assert (trial.eager.calls, max(counts)) == (8, 8)
    else:  # memory that was free again held other inputs
        assert "selection differs" in trial.reason


def one_bad_call_of_three(monkeypatch: pytest.MonkeyPatch, bad: Callable[..., Any]) -> None:
    """Three calls back to back, of which the second one is bad and the first one is chosen to be checked."""
    made: list[Any] = []
    take_time = Stopwatch.back_to_back

    def back_to_back(self: Stopwatch, *given: Any) -> float:
        made.append(None)
        try:
            return take_time(self, *given)
        finally:
            made.clear()

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        if not made or plan.pattern.keep.shape[2] != 180:
            return REFERENCE.attend(q, k, v, plan, scale, return_lse)
        made.append(None)
        return (bad if len(made) == 3 else REFERENCE.attend)(q, k, v, plan, scale, return_lse)

    monkeypatch.setattr(Stopwatch, "back_to_back", back_to_back)
    monkeypatch.setattr("attnbench.bench.bench.eager_calls", lambda seconds: 3)
    monkeypatch.setattr("attnbench.bench.timed.secrets.randbelow", lambda most: 0)
    use(monkeypatch, attend=attend)


def writes(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
    k.data[0, 0, 0, 0] += 1
    return REFERENCE.attend(q, k, v, plan, scale, return_lse)


def leaves_out(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
    output, lse = REFERENCE.attend(q, k, v, plan, scale, return_lse)
    return output * 0, lse


def skews(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
    skewed = _Skewed.apply(k)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return REFERENCE.attend(q, skewed, v, plan, scale, return_lse)


@pytest.mark.parametrize(
    ("bad", "direction", "words"),
    [
        (writes, "fwd", "writes into k"),
        (leaves_out, "fwd", "sampled rows of a timed call differ"),
        (skews, "fwdbwd", "dk of a timed call differs"),
    ],
)
def test_a_call_back_to_back_that_is_not_the_chosen_one(
    bad: Callable[..., Any], direction: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_bad_call_of_three(monkeypatch, bad)
    assert caught(measure(direction=direction), words).eager is None


@pytest.mark.parametrize("which", ["dq", "dk", "dv"])
def test_a_gradient_that_is_right_on_the_first_inputs_only(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[Tensor] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        tensors = {"dq": q, "dk": k, "dv": v}
        if q.requires_grad and plan.pattern.keep.shape[2] == 180:
            first.append((q * k).detach())  # what scores are sums of stays the same
            if not torch.equal(first[0], first[-1]):
                tensors[which] = _Skewed.apply(tensors[which])  # type: ignore[no-untyped-call]  # torch leaves apply untyped
        return REFERENCE.attend(*tensors.values(), plan, scale, return_lse)

    use(monkeypatch, attend=attend)
    caught(measure(direction="fwdbwd"), "gradients of a timed call", which)


def test_work_that_a_thread_does_after_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    looked = threading.Event()

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        if plan.pattern.keep.shape[2] != 180:
            return REFERENCE.attend(q, k, v, plan, scale, return_lse)
        output, lse = REFERENCE.attend(q, k, v, plan, scale, return_lse)
        calls.append(1)
        if len(calls) <= 3:
            return output, lse
        later = torch.zeros_like(output)

        def fill() -> None:
            looked.wait(300)
            later.copy_(output)

        threading.Thread(target=fill).start()
        return later, lse

    use(monkeypatch, attend=attend)
    trial = measure().trials[0]
    looked.set()
    assert trial.verdict == "incorrect"
    assert "another thread" in trial.reason or "differ" in trial.reason


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_tail_that_is_no_number(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        output, lse = REFERENCE.attend(q, k, v, plan, scale, return_lse)
        if plan.pattern.keep.shape[2] == 180:
            calls.append(1)
            if len(calls) > 4:
                output[..., -1, -1] = bad
        return output, lse

    use(monkeypatch, attend=attend)
    caught(measure(), "not finite")


def test_a_race_that_spoils_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        output, lse = REFERENCE.attend(q, k, v, plan, scale, return_lse)
        if plan.pattern.keep.shape[2] == 180:
            calls.append(1)
            if len(calls) == 2:
                output[0, 0, 77] = 0
        return output, lse

    use(monkeypatch, attend=attend)
    trial = caught(measure(), "on the same inputs differs")
    assert trial.stability is not None
    assert (trial.stability.found, trial.stability.calls) == ("unstable", 2)


def test_a_log_sum_exp_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        output, lse = REFERENCE.attend(q, k, v, plan, scale, return_lse)
        return output, lse if lse is None else lse + 0.01

    use(monkeypatch, attend=attend)
    of = Bench(
        make_agenda(
            Request(methods={"moba": SETTINGS}, grid="3x6x10", heads=1, head_dim=32, inputs="gaussian", device="cpu")
        ),
        NoProgress(),
    )
    of.prepare()
    caught(of, "log-sum-exp")


def half_as_much(settings: Any, call: Call, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
    return output + 0.5 * v.mean(2, keepdim=True).softmax(-1) * output.tanh()


def skewed_branch(settings: Any, call: Call, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
    return half_as_much(settings, call, q, k, v, output) * (1 if output.dtype == torch.float64 else 1.01)


@pytest.mark.parametrize("direction", ["fwd", "fwdbwd"])
def test_a_method_with_a_branch_gets_its_latency_and_a_wrong_branch_none(direction: str) -> None:
    honest = measure(finish=half_as_much, direction=direction).trials[0]
    assert (honest.verdict, len(honest.samples)) == (None, 9), honest.reason
    assert honest.branch is not None
    assert 0 < honest.branch.tolerance < 0.1
    caught(measure(finish=skewed_branch, direction=direction), "finish differs from itself in float64")


def test_a_branch_that_returns_its_first_answer_for_tensors_of_a_shape() -> None:
    made: dict[Any, Tensor] = {}

    def finish(settings: Any, call: Any, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
        return made.setdefault((q.dtype, q.shape), output.clone())

    caught(measure(finish=finish), "finish gives the same output for other inputs: it returns what it made before")


@pytest.mark.parametrize("direction", ["fwd", "fwdbwd"])
def test_a_branch_that_is_left_out_in_later_calls(direction: str) -> None:
    calls: list[int] = []

    def finish(settings: Any, call: Any, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
        if output.dtype != torch.float64 and output.shape[2] == 180:
            calls.append(1)
        return output * 1 if len(calls) > 8 else half_as_much(settings, call, q, k, v, output)

    caught(measure(finish=finish, direction=direction), "what finish makes in a timed call differs")


def test_a_branch_that_is_left_out_in_calls_back_to_back_that_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    left_out: list[bool] = []
    one_bad_call_of_three(monkeypatch, lambda *given: (left_out.append(True), REFERENCE.attend(*given))[1])

    def finish(settings: Any, call: Any, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
        return output * 1 if left_out and left_out.pop() else half_as_much(settings, call, q, k, v, output)

    trial = caught(measure(finish=finish), "what finish makes in a timed call differs")
    assert trial.eager is None


def test_a_method_that_slows_the_baseline_down_by_what_all_code_shares() -> None:
    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        torch.backends.cuda.enable_flash_sdp(False)
        return HONEST.plan(settings, q, k, call)

    trial = measure(plan).trials[0]
    assert trial.verdict == "error"
    assert "changed which kernels torch's attention may use" in trial.reason
    assert torch.backends.cuda.flash_sdp_enabled()


def of_all_keys(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
    """An honest plan that keeps full attention for finish."""
    return dataclasses.replace(HONEST.plan(settings, q, k, call), kept=get_method("full").plan(None, q, k, call))


def with_full(settings: Any, call: Any, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
    more, _ = call.attend(call.plan.kept)
    return 0.5 * (output + more)


def test_a_branch_that_attends_again_is_verified_and_counted() -> None:
    honest = measure(of_all_keys, finish=with_full).trials[0]
    assert (honest.verdict, len(honest.samples)) == (None, 9), honest.reason
    assert honest.facts is not None
    assert honest.facts.branch_flops == 4 * 32 * (3 * 6 * 10) ** 2


def test_an_engine_that_is_wrong_where_a_branch_attends_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        output, lse = REFERENCE.attend(q, k, v, plan, scale, return_lse)
        return (output * 1.01 if plan.pattern.is_full else output), lse

    use(monkeypatch, attend=attend)
    caught(measure(of_all_keys, finish=with_full), "sampled rows of what finish attends to again")


def test_a_branch_that_attends_over_other_pairs_when_it_is_verified() -> None:
    def otherwise(settings: Any, call: Any, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
        plan = call.plan if q.dtype == torch.float64 else call.plan.kept
        return output + call.attend(plan)[0]

    trial = measure(of_all_keys, finish=otherwise).trials[0]
    assert trial.verdict == "error"
    assert "finish attends over other pairs when it runs again" in trial.reason
