"""The first call of a cell: what it needs, and whether its results are right."""

from __future__ import annotations

from attnbench.bench.trial import FirstCall, PlanFacts, Trial, classified
from attnbench.bench.verify import check_rows, check_selection, check_twin
from attnbench.bench.workload import Workload
from attnbench.kernels.engines import get_engine
from attnbench.machine.clock import CLOCK
from attnbench.machine.memory import measure_peak
from attnbench.machine.stopwatch import Stopwatch


def check_trial(trial: Trial, workload: Workload, stopwatch: Stopwatch) -> None:
    """Run a trial's call for the first time and verify what came out; on failure set its verdict."""
    with classified() as failure:
        problem = _first_call(trial, workload, stopwatch)
        if problem:
            trial.fail("incorrect", problem)
        elif trial.rows is not None and trial.rows.vacuous:
            trial.fail("unsupported", trial.rows.vacuous)
    if failure.verdict is not None:
        trial.fail(failure.verdict, failure.reason)


def _first_call(trial: Trial, workload: Workload, stopwatch: Stopwatch) -> str:
    """Run a trial's call, note what it needs, and return what is wrong with its results; "" if nothing is."""
    job, engine, agenda = trial.job, trial.cell.engine, workload.agenda
    q, k, v = workload.qkv
    plan = workload.plan(job)
    trial.facts = PlanFacts(
        plan.density, plan.pairs, plan.nbytes, plan.selection_flops, get_engine(engine).executed_pairs(plan)
    )
    call = workload.call(job, engine)
    start = CLOCK.now()
    output, peak = measure_peak(call.run, agenda.device)
    trial.seconds = CLOCK.since(start)
    trial.first = trial.first or FirstCall(trial.seconds, workload.heads)
    given = [output, *(leaf.grad for leaf in call.leaves if leaf.grad is not None)]
    trial.peak_extra = None if peak is None else max(0, peak - sum(x.nbytes for x in given))
    trial.rows = check_rows(
        q, k, v, output, plan, agenda.shape.head_dim**-0.5, agenda.request.seed, finishes=job.method.finish is not None
    )
    trial.selection = check_selection(q, k, plan, job.arguments(agenda.shape))
    if trial.twin is None:
        trial.twin = check_twin(workload.twin(job, engine))
    finite = all(bool(x.isfinite().all()) for x in given)
    if agenda.device.type == "cuda":  # the first call compiled kernels
        timings = [stopwatch.time(call.run, call.prepare) for _ in range(2)]
        trial.seconds = min(timing.cold_ms for timing in timings) / 1e3
    checks = (trial.rows, trial.selection, trial.twin)
    problem = next((check.problem for check in checks if check is not None and check.problem), None)
    return problem or ("" if finite else "the gradients are not finite")
