"""What it costs to make the state of a method anew, which the steady step does not do."""

from __future__ import annotations

import secrets
import statistics
from typing import Any

from torch import Tensor

from attnbench.bench.selection import KeptKeys, check_same_selection
from attnbench.bench.trial import Incorrect, Trial
from attnbench.bench.verify import RowSample, choose_rows, rows_of
from attnbench.bench.workload import Workload
from attnbench.kernels.plan import plain
from attnbench.kernels.witness import Seen, watching
from attnbench.machine.stopwatch import Stopwatch
from attnbench.methods import Cycle

CALLS = 3
"""How many refreshes are timed; the median counts."""


def time_refresh(trial: Trial, workload: Workload, stopwatch: Stopwatch) -> None:
    """Time the refresh of a trial's method, if it has one, with a cold cache, and verify sampled rows of each.

    Raises:
        Incorrect: saying what is wrong.
    """
    cycle = trial.job.cycle
    if cycle is None:
        return
    first = _Refresh(trial, workload, cycle)
    first.call.prepare()
    first.run()
    kept, times = first.check(None), []
    for _ in range(CALLS):
        refresh = _Refresh(trial, workload, cycle)
        times.append(stopwatch.time(refresh.run, refresh.call.prepare, warm=False).cold_ms)
        refresh.check(kept)
    trial.refresh_ms = statistics.median(times)


class _Refresh:
    """One refresh, on copies of the first input set that no call has seen."""

    def __init__(self, trial: Trial, workload: Workload, cycle: Cycle) -> None:
        self.trial, self.workload, self.loan = trial, workload, workload.lend(0)
        self.other: dict[str, Any] = {"step": cycle.refresh} | ({"state": None} if cycle.anew else {})
        self.call = workload.call(trial.job, trial.cell.engine, self.loan, other=self.other)
        self.seen, self.output = Seen(), self.loan.q

    def run(self) -> Tensor:
        """Make the call."""
        with watching() as self.seen:
            self.output = self.call.run()
        return self.output

    def check(self, before: KeptKeys | None) -> KeptKeys:
        """Look at what it did and gave, and compare what it keeps with what an earlier one kept; return that.

        Raises:
            Incorrect: saying what is wrong.
        """
        seen, job, source = self.seen, self.trial.job, self.loan.source
        if seen.plan is None or seen.output is None or not bool(self.output.isfinite().all()):
            raise Incorrect("the refresh did not attend, or gave numbers that are not finite")
        plan, q = plain(seen.plan), source.q
        plan.check()
        rows = choose_rows(q.shape[0], q.shape[1], q.shape[2], secrets.randbelow(2**32), q.device)
        sample = RowSample.of(rows, q, source.k, source.v, plan, self.workload.scale)
        state = self.workload.state(job, self.loan)
        problem = sample.problem(rows_of(seen.output, rows), "the refresh") or self.loan.problem
        if problem := problem or ("" if state is None else state.problem):
            raise Incorrect(problem)
        if before is None:
            return KeptKeys.of(plan, rows)
        arguments = self.workload.arguments(job, self.loan) | self.other
        same = check_same_selection(before, q, source.k, plan, arguments, v=source.v)
        if same.problem:
            raise Incorrect(f"in a timed refresh {same.problem}")
        return before
