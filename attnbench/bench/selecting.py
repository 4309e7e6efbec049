"""What a method takes to select, apart from the rest of its call."""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Callable
from typing import Any

from torch import Tensor

from attnbench.bench.selection import check_same_selection, plan_digest
from attnbench.bench.threads import count_threads
from attnbench.bench.trial import Incorrect, Trial
from attnbench.bench.workload import Workload
from attnbench.kernels.plan import Plan
from attnbench.machine.clock import ClockStood
from attnbench.machine.stopwatch import Stopwatch
from attnbench.methods.arguments import prepare
from attnbench.methods.running import make_plan_of

CALLS = 3
"""How many plans are timed on a GPU, and on a CPU where a call takes less than LONG seconds; the median counts."""

LONG = 1.0


def time_selection(trial: Trial, workload: Workload, stopwatch: Stopwatch) -> None:
    """Time the plan of a trial's calls by itself, with a cold cache, and compare it with that of the verified call.

    Raises:
        Incorrect: if the method plans otherwise here.
    """
    calls = 1 if workload.agenda.device.type == "cpu" and trial.seconds >= LONG else CALLS
    trial.selection_ms = statistics.median(_once(trial, workload, stopwatch) for _ in range(calls))


def _once(trial: Trial, workload: Workload, stopwatch: Stopwatch) -> float:
    number = secrets.choice(list(trial.proofs))
    loan = workload.lend(number, disguise=trial.disguise)
    arguments = workload.arguments(trial.job, loan)
    make = _planner(loan.q, loan.k, v=loan.v, **arguments)
    made: list[tuple[Plan, int]] = []
    try:
        took = stopwatch.time(lambda: made.append(count_threads(make)), warm=False).cold_ms
    except ClockStood:  # a plan that was made before
        took = 0.0
    if loan.problem:
        raise Incorrect(loan.problem)
    if any(threads > 0 for _, threads in made):
        raise Incorrect("work goes on in another thread after the plan is made")
    plan, proof, source = made[-1][0], trial.proofs[number], loan.source
    if plan_digest(plan) not in proof.plans:
        plan.check()
        same = check_same_selection(proof.kept, source.q, source.k, plan, arguments, v=source.v)
        if same.problem:
            raise Incorrect(f"planned by itself, {same.problem}")
    return took


def _planner(
    q: Tensor, k: Tensor, *, method: Any, grid: Any, text: Any = (0, 0), layer: int = 0, step: int | None = None,
    state: Any = None, params: Any = None, v: Tensor | None = None, **settings: Any,
) -> Callable[[], Plan]:  # fmt: skip
    """Return what plans inside ``attnbench.attention`` with these arguments."""
    chosen, values, call = prepare(q, k, v, method, grid, text, layer, step, state, params, settings)
    return lambda: make_plan_of(chosen, values, q, k, call)
