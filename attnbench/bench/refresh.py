"""What it costs to make the state of a method anew, which the steady step does not do, and what other steps cost."""

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

CALLS = 3
"""How many steps of a kind are timed; the median counts."""


def time_refresh(trial: Trial, workload: Workload, stopwatch: Stopwatch) -> None:
    """Time the refresh of a trial's method and its third kind of steps, if there are, with a cold cache.

    Sampled rows of each call are verified.

    Raises:
        Incorrect: saying what is wrong.
    """
    cycle = trial.job.cycle
    if cycle is None:
        return
    refresh: dict[str, Any] = {"step": cycle.refresh} | ({"state": None} if cycle.anew else {})
    trial.refresh_ms = _time(trial, workload, stopwatch, "refresh", refresh)
    if cycle.other is not None:
        trial.other_ms = _time(trial, workload, stopwatch, "step of the third kind", {"step": cycle.other})


def _time(trial: Trial, workload: Workload, stopwatch: Stopwatch, name: str, other: dict[str, Any]) -> float:
    """Return the median in ms of calls with other arguments than those of the steady step."""
    first = _Step(trial, workload, name, other)
    first.call.prepare()
    first.run()
    kept, times = first.check(None), []
    for _ in range(CALLS):
        step = _Step(trial, workload, name, other)
        times.append(stopwatch.time(step.run, step.call.prepare, warm=False).cold_ms)
        step.check(kept)
    return statistics.median(times)


class _Step:
    """One step that is not the steady one, on copies of the first input set that no call has seen."""

    def __init__(self, trial: Trial, workload: Workload, name: str, other: dict[str, Any]) -> None:
        self.trial, self.workload, self.loan = trial, workload, workload.lend(0)
        self.name, self.other = name, other
        self.call = workload.call(trial.job, trial.cell.engine, self.loan, other=other)
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
            raise Incorrect(f"the {self.name} did not attend, or gave numbers that are not finite")
        plan, q = plain(seen.plan), source.q
        plan.check()
        rows = choose_rows(q.shape[0], q.shape[1], q.shape[2], secrets.randbelow(2**32), q.device)
        sample = RowSample.of(rows, q, source.k, source.v, plan, self.workload.scale)
        state = self.workload.state(job, self.loan)
        problem = sample.problem(rows_of(seen.output, rows), f"the {self.name}") or self.loan.problem
        if problem := problem or ("" if state is None else state.problem):
            raise Incorrect(problem)
        if before is None:
            return KeptKeys.of(plan, rows)
        arguments = self.workload.arguments(job, self.loan) | self.other
        same = check_same_selection(before, q, source.k, plan, arguments, v=source.v)
        if same.problem:
            raise Incorrect(f"in a timed {self.name} {same.problem}")
        return before
