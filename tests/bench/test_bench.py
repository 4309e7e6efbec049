"""The runner: what is called in which order, on which tensors, on how many heads, and what a failure becomes."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench import api
from attnbench.bench import rows, selecting
from attnbench.bench.bench import Bench
from attnbench.bench.jobs import make_agenda
from attnbench.bench.request import Request
from attnbench.bench.rounds import calls_of_a_cell
from attnbench.bench.trial import classified
from attnbench.bench.workload import Workload
from attnbench.kernels import engines
from attnbench.kernels.engines import Engine
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.engines.sdpa import SDPA
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.plan import Plan
from attnbench.machine import stopwatch as timing
from attnbench.machine.clock import CLOCK, Clock
from attnbench.machine.timers import Timing
from attnbench.methods import get_method
from attnbench.results.records.cells import Sample


class Quiet:
    """Progress that is kept for the test to look at."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        assert 0 <= done <= total

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, folder: str) -> None:
        raise AssertionError("the bench opens no journal")


@pytest.fixture(autouse=True)
def two_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the engines of every machine; sdpa is the one dense engine."""
    use(monkeypatch, SDPA, dataclasses.replace(REFERENCE, dense=False))


def use(monkeypatch: pytest.MonkeyPatch, *chosen: Engine) -> None:
    monkeypatch.setattr(engines, "ENGINES", {engine.name: engine for engine in chosen})


def broken(error: BaseException, name: str = "broken", *, after: int = 0, dense: bool = False) -> Engine:
    """An engine that raises from its call number ``after`` on."""
    calls: list[int] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise error
        return REFERENCE.attend(q, k, v, plan, scale, return_lse)

    return dataclasses.replace(REFERENCE, name=name, attend=attend, dense=dense)


def bench(**changes: Any) -> Bench:
    fields: dict[str, Any] = {
        "methods": {"sta": {"tile": (2, 2, 2)}, "moba": {"blocks": 5, "topk": 2}}, "grid": "3x5x7", "heads": 4,
        "head_dim": 16, "inputs": "gaussian", "device": "cpu", "stability_calls": 2,
    }  # fmt: skip
    return Bench(make_agenda(Request(**fields | changes)), Quiet())


class Recorder:
    """Stands for ``attnbench.attention`` and for the stopwatch: notes the calls, and which of them were timed."""

    timer = "wall"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, of: Bench) -> None:
        self.calls: list[str] = []
        self.counts: list[int] = []
        self.tensors: list[tuple[int, ...]] = []
        self.real = api.attention
        monkeypatch.setattr(api, "attention", self.attention)
        of.stopwatch = self  # type: ignore[assignment]  # as much of a stopwatch as is used

    def attention(self, q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Any:
        self.calls.append(f"{arguments['method'].name}/{arguments['engine']}")
        self.tensors.append((q.data_ptr(), k.data_ptr(), v.data_ptr(), q.shape[1]))
        return self.real(q, k, v, **arguments)

    def time(
        self, call: Callable[[], object], prepare: Callable[[], object] = lambda: None, *, warm: bool = True
    ) -> Timing:
        prepare()
        call()
        return Timing(1.0 + len(self.calls), None)

    def back_to_back(self, call: Callable[[], object], prepare: Callable[[], object], count: int) -> float:
        self.counts.append(count)
        return 1.0


def taking(ms: float) -> Callable[..., Timing]:
    """Stand for ``Stopwatch.time`` where every call takes as long."""

    def time(call: Callable[[], object], prepare: Callable[[], object] = lambda: None, *, warm: bool = True) -> Timing:
        call()
        return Timing(ms)

    return time


def rounds_of(of: Bench, monkeypatch: pytest.MonkeyPatch, count: int = 4) -> list[list[str]]:
    of.prepare()
    recorder = Recorder(monkeypatch, of)
    samples: list[Sample] = []
    seen = []
    for number in range(count):
        of.time_round(number, count, samples.append)
        seen.append(recorder.calls.copy())
        recorder.calls.clear()
    assert [sample.round for sample in samples] == sorted(sample.round for sample in samples)
    return seen


def test_every_round_runs_each_cell_and_the_baseline_once_and_every_other_round_backwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = bench()
    forwards = ["full/sdpa", "sta/reference", "moba/reference"]
    assert rounds_of(of, monkeypatch) == [forwards, forwards[::-1], forwards, forwards[::-1]]


def test_the_baseline_is_a_cell_where_full_attention_with_its_engine_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    of = bench(methods={"moba": {}, "full": {}})
    assert of.trials[1].cell.engine == "sdpa"
    assert rounds_of(of, monkeypatch, 2) == [["moba/reference", "full/sdpa"], ["full/sdpa", "moba/reference"]]
    assert of.baseline is of.trials[1]


def test_full_attention_by_another_engine_is_a_cell_beside_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    of = bench(methods={"full": {}}, engine="reference")
    assert rounds_of(of, monkeypatch, 2) == [["full/sdpa", "full/reference"], ["full/reference", "full/sdpa"]]


def test_a_round_leaves_out_what_it_has_already(monkeypatch: pytest.MonkeyPatch) -> None:
    of = bench()
    of.prepare()
    recorder = Recorder(monkeypatch, of)
    of.time_round(0, 3, lambda sample: None)
    recorder.calls.clear()
    of.trials[0].samples.clear()
    of.time_round(0, 3, lambda sample: None)
    assert recorder.calls == ["sta/reference"]


@pytest.mark.parametrize("heads", [1, 4])
def test_what_is_timed_are_new_copies_of_input_sets_that_rotate(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    of = bench(heads=4, kv_heads=2)
    of.prepare()
    first = of.inputs_hash
    of.use_heads(heads)
    assert (of.inputs_hash == first) == (heads == 1)
    recorder = Recorder(monkeypatch, of)
    samples: list[Sample] = []
    for number in range(6):
        of.time_round(number, 6, samples.append)
    cells = len(of.live())
    assert len(samples) == 6 * cells
    by_round = [{sample.input_set for sample in samples if sample.round == number} for number in range(6)]
    assert all(len(used) == 1 for used in by_round), "all cells and the baseline share a round's set"
    assert [set().union(*by_round[:3]), set().union(*by_round[3:])] == [{0, 1, 2}] * 2
    assert len(set(recorder.tensors)) == len(recorder.tensors) == 6 * cells, "no address comes twice"
    assert {heads_timed for *_, heads_timed in recorder.tensors} == {heads}
    assert {sample.inputs_hash for sample in samples} == {of.inputs_hash}
    assert {(sample.heads_timed, sample.threads) for sample in samples} == {(heads, 1)}


def test_verification_reuses_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """At full size a CPU call takes seconds: one call a cell, one more for stability, and the twin, which is small."""
    of = bench(methods={"sta": {}}, grid="8x16x16", heads=1)
    sizes: list[int] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        sizes.append(q.shape[2])
        return REFERENCE.attend(q, k, v, plan, scale, return_lse)

    use(monkeypatch, SDPA, dataclasses.replace(REFERENCE, attend=attend, dense=False))
    of.prepare()
    assert sizes.count(8 * 16 * 16) == 2
    assert len(sizes) == 3


def with_seconds(of: Bench, seconds: float, budget: float) -> Bench:
    """Let every live trial have taken ``seconds`` for the one head, and nothing of the budget be spent."""
    for trial in of.live():
        trial.seconds = seconds
    of.agenda = dataclasses.replace(of.agenda, request=of.agenda.request.model_copy(update={"budget": budget}))
    of.started = CLOCK.seconds()
    return of


def test_the_budget_chooses_the_heads_and_never_fewer_than_one() -> None:
    of = bench(heads=12)
    of.prepare()
    assert len(of.live()) == 3
    chosen = {budget: with_seconds(of, 1.0, budget).choose_heads() for budget in (0.001, 5, 60, 160, 1e6)}
    assert (chosen[0.001], chosen[5], chosen[1e6]) == (1, 1, 12)
    assert list(chosen.values()) == sorted(chosen.values())
    for budget in (60, 160):
        assert 1 < chosen[budget] < 12
        # Two calls for verification and three rounds, of three cells with one second a head.
        assert 3 * 5 * chosen[budget] <= budget < 3 * 6 * (chosen[budget] + 1)


@pytest.mark.parametrize(("stability_calls", "rounds"), [(1, 3), (2, 3), (5, 4)])
def test_the_budget_is_planned_for_the_calls_that_are_made(
    stability_calls: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = bench(stability_calls=stability_calls)
    of.prepare()
    recorder = Recorder(monkeypatch, of)
    of.use_heads(3)
    for number in range(rounds):
        of.time_round(number, rounds, lambda sample: None)
    cells = of.live()
    made = Counter(name for name, (*_, heads) in zip(recorder.calls, recorder.tensors, strict=True) if heads == 3)
    assert len(cells) == len(made) == len(recorder.counts) == 3
    for trial, back_to_back in zip(cells, recorder.counts, strict=True):
        called = made[f"{trial.job.method.name}/{trial.cell.engine}"] + back_to_back
        assert called == calls_of_a_cell(trial.seconds, rounds, stability_calls)
        assert (trial.verdict, trial.stability is None, bool(trial.kernels)) == (None, stability_calls == 1, True)


def test_more_rounds_leave_time_for_fewer_heads() -> None:
    few, many = bench(heads=12, rounds=1), bench(heads=12, rounds=10)
    few.prepare()
    many.prepare()
    assert with_seconds(few, 1.0, 60).choose_heads() > with_seconds(many, 1.0, 60).choose_heads()


@pytest.mark.parametrize("budget", [1, 20, 40, 60, 90, 120, 1e4])
def test_grouped_heads_are_chosen_in_whole_groups(budget: float) -> None:
    of = bench(heads=12, kv_heads=3)
    of.prepare()
    heads = with_seconds(of, 1.0, budget).choose_heads()
    assert heads in (1, 2, 3, 4, 8, 12)
    of.use_heads(heads)
    assert of.inputs.q.shape[1] == heads


def test_rounds_are_at_least_three_and_at_most_twenty_unless_asked_for() -> None:
    of = bench()
    of.prepare()
    assert with_seconds(of, 1.0, 0.001).choose_rounds() == 3
    assert with_seconds(of, 1.0, 32.5).choose_rounds() == 10
    back_to_back = 2 * 3 * 0.5  # two calls of each of three cells after the last round
    assert with_seconds(of, 0.5, 16.3 + back_to_back).choose_rounds() == 10
    assert with_seconds(of, 1.0, 1e6).choose_rounds() == 20
    one = bench(rounds=1)
    one.prepare()
    assert with_seconds(one, 1.0, 1e6).choose_rounds() == 1


def test_calls_are_made_back_to_back_once_and_after_the_last_round(monkeypatch: pytest.MonkeyPatch) -> None:
    of = bench()
    of.prepare()
    recorder = Recorder(monkeypatch, of)
    monkeypatch.setattr(recorder, "time", taking(50.0))
    for number, counts in enumerate([0, 0, 3]):
        of.time_round(number, 3, lambda sample: None)
        assert len(recorder.counts) == counts
    assert recorder.counts == [4, 4, 4]  # a fifth of a second of them
    row = rows.make_row(of, of.trials[0], "run")
    assert (row.latency_eager_ms, row.baseline_eager_ms, row.eager_calls) == (1.0, 1.0, 4)


def test_rounds_end_when_the_precision_is_reached_and_the_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    of = bench(precision=0.05)
    of.prepare()
    recorder = Recorder(monkeypatch, of)
    monkeypatch.setattr(recorder, "time", taking(10.0))
    taken: list[Sample] = []
    for number in range(9):
        of.time_round(number, 9, taken.append)
    assert {len(trial.samples) for trial in of.live()} == {6}
    assert len(recorder.counts) == 3
    assert rows.make_row(of, of.trials[0], "run").stop_reason == "the precision of 0.05"


def test_selection_is_inside_every_timed_call(monkeypatch: pytest.MonkeyPatch) -> None:
    of = bench(methods={"moba": {"blocks": 5, "topk": 2}}, heads=1)
    of.prepare()
    recorder, method = Recorder(monkeypatch, of), of.trials[0].job.method
    planned: list[str] = []
    inside = False

    def plan(*given: Any, **named: Any) -> Any:
        planned.append("timed" if inside else "untimed")
        return method.plan(*given, **named)

    def clocked(call: Callable[[], object], prepare: Callable[[], object]) -> Timing:
        nonlocal inside
        prepare()
        inside = True
        call()
        inside = False
        return Timing(1.0)

    monkeypatch.setattr(recorder, "time", clocked)
    of.trials[0].job = dataclasses.replace(of.trials[0].job, method=dataclasses.replace(method, plan=plan))
    for number in range(3):
        of.time_round(number, 4, lambda sample: None)
    assert planned.count("timed") == 3


def test_a_clock_that_runs_backwards_is_the_verdict_of_the_cell_that_it_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    of = bench(heads=1)
    of.prepare()
    now = [0.0]
    steps = iter([1.0, 1.0, -2.0, *[1.0] * 9])
    hands = Clock(lambda: round(now[0] * 1e9), lambda: round(now[0] * 1e9))
    real = api.attention

    def attention(*given: Any, **named: Any) -> Any:
        now[0] += next(steps, 1.0)
        return real(*given, **named)

    of.stopwatch = timing.Stopwatch(of.agenda.device, clock=hands)
    monkeypatch.setattr(api, "attention", attention)
    for number in range(3):
        of.time_round(number, 3, lambda sample: None)
    good, bad = of.trials
    assert (good.verdict, len(good.samples)) == (None, 3)
    assert (bad.verdict, bad.reason) == ("error", "the clock ran backwards by 2 s")


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nGPU 0 has ..."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    MemoryError(),
]
FAILURES: list[tuple[BaseException, str]] = [
    *((error, "oom") for error in MEMORY),
    (RuntimeError("illegal instruction\nand a long story"), "error"),
    (ZeroDivisionError("division by zero"), "error"),
    (AssertionError(), "error"),
    (Unsupported("cannot on Tuesdays"), "unsupported"),
]


@pytest.mark.parametrize(("error", "verdict"), FAILURES)
@pytest.mark.parametrize("after", [0, 4])
def test_what_goes_wrong_with_one_cell_is_its_verdict_and_the_others_go_on(
    error: BaseException, verdict: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, or only in the second round: its calls are two on its tensors, one on the twin, then rounds."""
    use(monkeypatch, broken(error, after=after), SDPA, dataclasses.replace(REFERENCE, dense=False))
    of = bench(heads=1)
    of.trials[1].cell = of.trials[1].cell.model_copy(update={"engine": "broken"})
    of.trials[0].cell = of.trials[0].cell.model_copy(update={"engine": "reference"})
    of.prepare()
    taken: list[Sample] = []
    for number in range(3):
        of.time_round(number, 3, taken.append)
    good, bad = of.trials
    assert (good.verdict, len(good.samples)) == (None, 3)
    assert (bad.verdict, len(bad.samples)) == (verdict, max(0, after - 3))
    assert bad.reason
    assert "\n" not in bad.reason
    if str(error):
        assert str(error).splitlines()[0] in bad.reason
    row = rows.make_row(of, bad, "run")
    assert (row.verdict, row.latency_ms, row.samples_ms, row.reason) == (verdict, None, [], bad.reason)


def test_an_interrupt_is_no_verdict() -> None:
    with pytest.raises(KeyboardInterrupt), classified():
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BadInput("this grid is not for me"), "this grid is not for me"),
        (SystemExit(0), "it called sys.exit(0)"),
        (SystemExit(), "it called sys.exit()"),
    ],
)
def test_what_a_method_refuses_or_leaves_is_its_error(error: BaseException, reason: str) -> None:
    with classified() as failure:
        raise error
    assert (failure.verdict, failure.reason) == ("error", reason)


def test_an_engine_that_serves_no_cell_is_refused_and_one_that_serves_some_is_not() -> None:
    with pytest.raises(Unsupported, match="engine 'sdpa' runs full attention only"):
        bench(engine="sdpa")
    some = bench(methods={"full": {}, "moba": {"blocks": 5, "topk": 2}}, engine="sdpa")
    assert [trial.verdict for trial in some.trials] == [None, "unsupported"]
    assert "runs full attention only" in some.trials[1].reason


def test_a_dense_engine_that_fails_is_no_baseline_while_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, broken(RuntimeError("no"), "first", dense=True), SDPA, dataclasses.replace(REFERENCE, dense=False))
    of = bench(engine="reference")
    of.prepare()
    assert of.baseline is not None
    assert of.baseline.cell.engine == "sdpa"


def test_without_a_dense_engine_that_works_there_is_no_baseline_and_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = broken(RuntimeError("out of order"), "dense", dense=True)
    use(monkeypatch, dense, dataclasses.replace(REFERENCE, dense=False))
    of = bench(engine="reference")
    of.prepare()
    assert of.baseline is None
    assert isinstance(of.progress, Quiet)
    assert "no speed-ups: dense: RuntimeError: out of order" in of.progress.notes[0]
    assert [trial.verdict for trial in of.trials] == [None, None]


def test_a_baseline_that_fails_later_is_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = broken(RuntimeError("out of order"), "dense", after=4, dense=True)
    use(monkeypatch, dense, dataclasses.replace(REFERENCE, dense=False))
    of = bench(engine="reference", heads=1)
    assert [len(names) for names in rounds_of(of, monkeypatch, 3)] == [3, 3, 2]
    row = rows.make_row(of, of.trials[0], "run")
    assert (row.verdict, row.baseline, row.speedup) == ("ok", None, None)


def test_the_fastest_dense_engine_is_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        time.sleep(0.03)
        return SDPA.attend(q, k, v, plan, scale, return_lse)

    late = dataclasses.replace(SDPA, name="late", attend=slow)
    use(monkeypatch, late, SDPA, dataclasses.replace(REFERENCE, dense=False))
    of = bench(engine="reference")
    of.prepare()
    assert of.baseline is not None
    assert of.baseline.cell.engine == "sdpa"


@pytest.mark.parametrize("disturbed", range(5))
def test_one_disturbed_trial_does_not_choose_the_baseline(disturbed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        nonlocal calls
        calls += 1
        time.sleep(0.1 if calls == disturbed + 1 else 0)
        return SDPA.attend(q, k, v, plan, scale, return_lse)

    def slow(q: Tensor, k: Tensor, v: Tensor, plan: Plan, scale: float, return_lse: bool) -> Any:
        time.sleep(0.03)
        return SDPA.attend(q, k, v, plan, scale, return_lse)

    engines = (dataclasses.replace(SDPA, name=name, attend=run) for name, run in (("late", slow), ("sdpa", attend)))
    use(monkeypatch, *engines, dataclasses.replace(REFERENCE, dense=False))
    of = bench(engine="reference")
    of.prepare()
    assert of.baseline is not None
    assert of.baseline.cell.engine == "sdpa"


@pytest.mark.parametrize(("direction", "factor"), [("fwd", 1), ("fwdbwd", 3.5)])
def test_work_is_counted_for_the_heads_that_are_timed(direction: str, factor: float) -> None:
    """Two products of 2·N²·D a head forward, five more of them backward; a window of zero keeps N pairs a head."""
    of = bench(methods={"sliding-window": {"width": 0}}, direction=direction, batch=2)
    of.prepare()
    of.use_heads(3)
    of.time_round(0, 1, lambda sample: None)
    row = rows.make_row(of, of.trials[0], "run")
    n, dim, heads, batch = 105, 16, 3, 2
    assert (row.heads, row.heads_timed, row.tokens) == (4, 3, n)
    assert row.flops_dense == factor * 4 * n * n * dim * heads * batch
    assert row.flops_algorithmic == factor * 4 * n * dim * heads * batch
    assert row.density == pytest.approx(1 / n)
    assert row.executed_pairs is not None
    assert row.flops_executed == 2 * factor * 2 * dim * row.executed_pairs
    assert row.flops_algorithmic <= row.flops_executed <= row.flops_dense


def test_a_row_says_what_its_plan_keeps_of_each_two_frames() -> None:
    of = bench(methods={"sliding-window": {"width": 9}})
    of.prepare()
    of.time_round(0, 1, lambda sample: None)
    row = rows.make_row(of, of.trials[0], "run")
    frames, tokens = int(row.grid.split("x")[0]), row.tokens
    place = torch.arange(tokens)
    kept = ((place[:, None] - place).abs() <= 9).double().view(frames, tokens // frames, frames, -1).mean((1, 3))
    assert frames > 1
    assert row.kept_by_frame is not None
    assert json.loads(row.kept_by_frame) == (kept * 1000).round().int().tolist()


def test_backward_clears_the_gradients_between_calls() -> None:
    of = bench(direction="fwdbwd")
    call = of.call(of.trials[0].job, "reference")
    seen = []
    for _ in range(2):
        call.prepare()
        call.run()
        seen.append([leaf.grad.clone() for leaf in call.leaves if leaf.grad is not None])
    assert len(seen[0]) == 3
    for first, second in zip(*seen, strict=True):
        assert torch.equal(first, second)


def test_memory_beyond_the_output_is_recorded() -> None:
    of = bench(heads=1)
    of.prepare()
    peak = of.trials[0].peak_extra
    assert peak is None or 0 <= peak < 2**28


@pytest.mark.parametrize("planted", [0, 2, 3])
def test_a_selection_unlike_that_of_float64_is_incorrect(planted: int) -> None:
    """Some pairs of one head, kept though the rule does not, by the plan that is timed; two may be a near tie."""
    real = get_method("moba")

    def plan(settings: Any, q: Tensor, k: Tensor, call: Any) -> Plan:
        made = real.plan(settings, q, k, call)
        if q.dtype == torch.float64 or q.shape[2] != 105:
            return made
        keep = made.pattern.keep.clone()
        rows, columns = (~keep[0, 0]).nonzero()[:planted].unbind(1)
        keep[0, 0, rows, columns] = True
        return dataclasses.replace(made, pattern=dataclasses.replace(made.pattern, keep=keep))

    of = bench(methods={"moba": {"blocks": 5, "topk": 2}, "sta": {"tile": (2, 2, 2)}})
    of.trials[0].job = dataclasses.replace(of.trials[0].job, method=dataclasses.replace(real, plan=plan))
    of.prepare()
    routed, whole = of.trials
    assert routed.verdict == ("incorrect" if planted > 2 else None)
    assert whole.verdict is None
    if planted > 2:
        assert "differs from the rule in float64 in 3 of 525 pairs" in routed.reason
    of.time_round(0, 1, lambda sample: None)
    made = [rows.make_row(of, trial, "run") for trial in of.trials]
    assert [row.selection_differs for row in made] == [planted, None]
    assert made[0].verdict == ("incorrect" if planted > 2 else "ok")


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let engines be chosen as for a GPU; calls run on the CPU all the same."""
    real = Workload.task.fget
    assert real is not None
    on_gpu = property(lambda self: dataclasses.replace(real(self), device=torch.device("cuda")))
    monkeypatch.setattr(Workload, "task", on_gpu)
    monkeypatch.setattr(engines, "_warn_once", lambda text: None)


@pytest.mark.parametrize(("engine", "flagged"), [("auto", True), ("reference", False)])
def test_a_row_says_that_a_gpu_fell_to_plain_torch(
    engine: str, flagged: bool, as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = bench(engine=engine)
    rounds_of(of, monkeypatch, 3)
    made = [rows.make_row(of, trial, "run") for trial in of.trials]
    assert {(row.verdict, row.engine) for row in made} == {("ok", "reference")}
    assert all(("plain-torch" in (row.flags or "")) is flagged for row in made)


def test_strict_runs_refuse_plain_torch_on_a_gpu_with_the_reason(as_on_a_gpu: None) -> None:
    methods = {"full": {}, "moba": {"blocks": 5, "topk": 2}}
    of = bench(methods=methods, strict=True)
    assert [(trial.verdict, trial.cell.engine) for trial in of.trials] == [(None, "sdpa"), ("unsupported", "auto")]
    row = rows.make_row(of, of.trials[1], "run")
    assert (row.verdict, row.latency_ms) == ("unsupported", None)
    assert "sdpa runs full attention only" in row.reason
    assert "reference is plain torch, which a strict run does not take on a GPU" in row.reason
    with pytest.raises(Unsupported, match="reference is plain torch"):
        bench(strict=True)


def test_a_row_says_what_selecting_takes_by_itself() -> None:
    of = bench(methods={"moba": {"blocks": 5, "topk": 2}}, heads=1)
    of.prepare()
    trial, slow = of.trials[0], 0.02
    method = trial.job.method

    def late(*given: Any, **named: Any) -> Any:
        time.sleep(slow)
        return method.plan(*given, **named)

    trial.job = dataclasses.replace(trial.job, method=dataclasses.replace(method, plan=late))
    of.time_round(0, 1, lambda sample: None)
    row = rows.make_row(of, trial, "run")
    assert row.verdict == "ok", row.reason
    assert row.selection_ms is not None
    assert slow * 1e3 <= row.selection_ms < 50 * slow * 1e3


def test_a_method_that_plans_otherwise_where_only_its_plan_is_timed_is_incorrect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = bench(methods={"moba": {"blocks": 5, "topk": 2}}, heads=1)
    of.prepare()
    trial, last = of.trials[0], bench(methods={"moba": {"blocks": 5, "topk": 1}}, heads=1).trials[0]
    monkeypatch.setattr(
        selecting, "_planner", lambda q, k, **arguments: lambda: of.workload.plan(last.job, of.workload.lend(0))
    )
    of.time_round(0, 1, lambda sample: None)
    assert (trial.verdict, trial.selection_ms) == ("incorrect", None)
    assert "planned by itself, the selection differs from that of the verified call" in trial.reason
