"""What it costs to make the state of a method anew, which the steady step does not do."""

from __future__ import annotations

import secrets
import statistics

from attnbench.bench.trial import Incorrect, Trial
from attnbench.bench.verify import RowSample, choose_rows
from attnbench.bench.workload import Workload
from attnbench.kernels.plan import plain
from attnbench.kernels.witness import watching
from attnbench.machine.stopwatch import Stopwatch

CALLS = 3
"""How many refreshes are timed; the median counts."""


def time_refresh(trial: Trial, workload: Workload, stopwatch: Stopwatch) -> None:
    """Verify sampled rows of the refresh of a trial's method, if it has one, and time it with a cold cache.

    Raises:
        Incorrect: saying what is wrong.
    """
    job, cycle = trial.job, trial.job.cycle
    if cycle is None:
        return
    loan = workload.lend(0)
    other = {"step": cycle.refresh} | ({"state": None} if cycle.anew else {})
    call = workload.call(job, trial.cell.engine, loan, other=other)
    call.prepare()
    with watching() as seen:
        output = call.run()
    if seen.plan is None or seen.output is None or not bool(output.isfinite().all()):
        raise Incorrect("the refresh did not attend, or gave numbers that are not finite")
    plan, q = plain(seen.plan), loan.source.q
    plan.check()
    rows = choose_rows(q.shape[0], q.shape[1], q.shape[2], secrets.randbelow(2**32), q.device)
    sample = RowSample.of(rows, q, loan.source.k, loan.source.v, plan, workload.scale)
    taken = {place: seen.output[place][chosen] for place, chosen in rows.items()}
    state = workload.state(job, loan)
    problem = sample.problem(taken, "the refresh") or loan.problem or ("" if state is None else state.problem)
    if problem:
        raise Incorrect(problem)
    times = [stopwatch.time(call.run, call.prepare, warm=False).cold_ms for _ in range(CALLS)]
    trial.refresh_ms = statistics.median(times)
