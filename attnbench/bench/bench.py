"""Measure an agenda: plan, verify, and time every cell and the dense baseline in interleaved rounds.

What is timed is ``attnbench.attention``: selection, permutation and all.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict
from functools import partial
from statistics import fmean

import torch

from attnbench.bench.baseline import Attempt, find_dense
from attnbench.bench.calls import Call
from attnbench.bench.check import check_trial
from attnbench.bench.facts import facts_of, mean_of
from attnbench.bench.in_turns import in_turns
from attnbench.bench.jobs import Agenda, Job
from attnbench.bench.matched import match_density
from attnbench.bench.profile.cupti import make_stopwatch
from attnbench.bench.refresh import time_refresh
from attnbench.bench.rounds import eager_calls, heads_within, one_round
from attnbench.bench.selecting import time_selection
from attnbench.bench.stability import MOST_CALLS
from attnbench.bench.stopping import LEAST_ROUNDS, Precision, planned, rules_of, why_stopped
from attnbench.bench.timed import CallsInTurn, TimedCall
from attnbench.bench.trial import Eager, PlanFacts, Trial, classified, dense_job
from attnbench.bench.turns import Turns
from attnbench.bench.workload import Workload
from attnbench.inputs.make import Inputs
from attnbench.inputs.seeds import SETS
from attnbench.inputs.sets import loans_within
from attnbench.kernels.engines import choose_engine, dense_engines, strictly
from attnbench.kernels.errors import Unsupported
from attnbench.machine.clock import CLOCK
from attnbench.machine.load import LoadWatch, read_counters
from attnbench.machine.telemetry import read
from attnbench.methods.registry import of_one_version
from attnbench.results.records.cells import Cell, Row, Sample
from attnbench.results.run import Progress

_WARMED_UP_SECONDS = 0.25
"""Shorter calls are warmed up where runs take turns: after a call of another process they take some 1 ms more."""


class Bench:
    """What one process needs to measure an agenda.

    Attributes:
        agenda: the checked request.
        workload: the tensors that are timed.
        stopwatch: of the device.
        trials: one of every cell.
        todo: those that still need a row; see ``leave_out``.
        baseline: the dense baseline, once it is found; one of the trials if it was asked for.
        apart: cells of the run that have processes of their own, which share its budget.
        group: whose rounds these are, as samples have it.
        load: what else the machine does.
        turns: which input set each round uses.
        others: runs that take turns with this one, if there are any.
    """

    apart = 0

    def __init__(self, agenda: Agenda, progress: Progress, *, heads: int | None = None, own: bool = False) -> None:
        """Make the tensors, and plan every cell.

        Args:
            agenda: the checked request.
            progress: told what is done.
            heads: how many to begin with; by default one on a CPU, and all on a GPU.
            own: whether this process is that of the one cell of the agenda.

        Raises:
            BadInput: for inputs that cannot be made.
            Unsupported: if the engine asked for can serve none of several cells.
        """
        self.agenda, self.progress = agenda, progress
        self.started = CLOCK.seconds()
        progress.step(f"inputs: {agenda.request.inputs}", 0, 1, None)
        self.workload = Workload.make(agenda, heads or (agenda.shape.heads if agenda.device.type == "cuda" else 1))
        self.stopwatch = make_stopwatch(agenda.device, agenda.request.timer)
        self.trials = self._trials()
        self.group = self.trials[0].cell.identity if own else ""
        if not own and all(trial.verdict == "unsupported" for trial in self.trials):
            raise Unsupported("; ".join(dict.fromkeys(trial.reason for trial in self.trials)))
        self.todo = self.trials
        self.baseline: Trial | None = None
        self.load = LoadWatch()
        self.turns = Turns()
        self.others = in_turns()

    @property
    def heads(self) -> int:
        """How many heads are timed."""
        return self.workload.heads

    @property
    def inputs(self) -> Inputs:
        """q, k and v that are timed."""
        return self.workload.inputs

    @property
    def inputs_hash(self) -> str:
        """What identifies the bytes of all input sets."""
        return self.workload.sets.hash

    def mean_facts(self, trial: Trial) -> PlanFacts | None:
        """Return what the plans of a trial's samples keep on average; of the first input set if there are none."""
        if trial.facts is None or trial.verdict is not None or not trial.samples:
            return trial.facts
        used = [sample.input_set for sample in trial.samples]
        for number in set(used) - set(trial.set_facts):  # of an earlier part of the run
            plan = self.workload.plan(trial.job, self.workload.lend(number))
            trial.set_facts[number] = facts_of(
                plan, trial.cell.engine, self.agenda.shape.head_dim, trial.selection_flops, trial.branch_flops
            )
        return mean_of([trial.set_facts[number] for number in used])

    def leave_out(self, cell_ids: Collection[str]) -> None:
        """Neither verify nor time these cells: they have their rows."""
        self.todo = [trial for trial in self.trials if trial.cell.identity not in cell_ids]

    def reopen(self, rows: Iterable[Row]) -> None:
        """Get ready to call every cell again, on the tensors that its row was timed on; nothing is verified anew.

        Args:
            rows: of the finished run. If they were timed on different numbers of heads, the tensors stay as they are.
        """
        timed = {row.cell_id: row for row in rows if row.latency_ms is not None}
        heads = {row.heads_timed for row in timed.values()}
        if len(heads) == 1:
            self._take_heads(heads.pop())
        for trial in self.trials:
            row = timed.get(trial.cell.identity)
            if not trial.seconds and row is not None and row.latency_ms is not None:
                trial.seconds = row.latency_ms / 1e3

    @property
    def threads(self) -> int | None:
        """CPU threads that torch uses; None where they do not matter."""
        return torch.get_num_threads() if self.agenda.device.type == "cpu" else None

    def _trials(self) -> list[Trial]:
        """Plan every job once to learn which engine runs it."""
        trials = []
        for job in self.agenda.jobs:
            name = self.agenda.request.engine
            with classified() as failure, strictly(self.agenda.request.strict):
                job = self._matched(job)
                name = choose_engine(name, self.workload.plan(job), self.workload.task).name
            trials.append(Trial(job, self.agenda.cell(job, name), verdict=failure.verdict, reason=failure.reason))
        return trials

    def _matched(self, job: Job) -> Job:
        """Return the job with settings that keep the density that was asked for, as nearly as it can on all inputs."""
        if job.density is None:
            return job
        self.progress.step(f"density {job.density:g}: {job.label}", 0, 1, None)

        def density_of(moved: Job) -> float:
            return fmean(self.workload.plan(moved, self.workload.lend(number)).density for number in range(SETS))

        return match_density(job, self.agenda.shape.layout, job.density, density_of)

    def dense_cells(self) -> dict[str, Cell]:
        """Return the cell that dense attention is on each engine: the one asked for, where it is, otherwise its own."""
        dense = dense_job()
        asked = {trial.cell.engine: trial.cell for trial in self.trials if trial.job.method is dense.method}
        return {name: asked.get(name) or self.agenda.cell(dense, name, name) for name in dense_engines()}

    def call(self, job: Job, engine: str) -> Call:
        """Return the call that users make, on this run's tensors."""
        return self.workload.call(job, engine)

    def prepare(self, baseline: str | None = None, *, search: bool = True) -> None:
        """Find the dense baseline, then run, measure and verify every trial once.

        Args:
            baseline: the engine of the dense baseline, if an earlier part of this run chose it.
            search: whether to look for one if none was chosen.
        """
        self.baseline = self._find_baseline(baseline) if search or baseline is not None else None
        todo = [trial for trial in self.todo if trial.verdict is None and not trial.shared]
        for number, trial in enumerate(todo):
            left = None if self.baseline is None else self.baseline.seconds * (len(todo) - number)
            self.progress.step(f"verifying {trial.job.label}", number, len(todo), left)
            self.check(trial)

    def check(self, trial: Trial, *, repeat: bool = True) -> None:
        """Run a trial's call for the first time and verify what came out; on failure set its verdict.

        The dense baseline, where it is not one of the cells, is repeated MOST_CALLS times at most: no row tells of it.
        """
        calls = self.agenda.request.stability_calls
        if calls is not None and trial not in self.todo:
            calls = min(calls, MOST_CALLS)
        check_trial(trial, self.workload, self.stopwatch, calls if repeat else 0)

    def _find_baseline(self, chosen: str | None) -> Trial | None:
        """Return the fastest dense engine that verifies; None, and a note, if there is none."""
        dense = dense_job()
        tried: dict[str, Trial] = {}

        def attempt(name: str, *, repeat: bool = False) -> Attempt:
            asked = (t for t in self.todo if t.job.method is dense.method and t.cell.engine == name)
            trial = tried[name] = next(asked, None) or Trial(dense, self.agenda.cell(dense, name, name))
            self.progress.step(f"dense baseline: {dense.label}/{name}", 0, 1, None)
            self.check(trial, repeat=repeat)
            return Attempt(trial.seconds, "" if trial.verdict is None else trial.reason or trial.verdict)

        confirm = partial(attempt, repeat=True)
        found = find_dense(self.workload.plan(dense), self.workload.task, self.workload.qkv, attempt, chosen, confirm)
        if found.engine is None:
            self.progress.note(f"no dense baseline, so no speed-ups: {found.complaint}")
            return None
        best = tried[found.engine]
        best.shared = best in self.todo
        return best

    def live(self) -> list[Trial]:
        """The trials to time, with the baseline first if it is not one of them."""
        extra = [] if self.baseline is None or self.baseline.shared else [self.baseline]
        return [trial for trial in (*extra, *self.todo) if trial.verdict is None]

    def choose_heads(self) -> int:
        """Return how many heads the budget allows, at least the one that was verified (on CUDA: all)."""
        request, shape = self.agenda.request, self.agenda.shape
        once = [seconds / self.heads for seconds in self._seconds_of_calls()]
        return heads_within(
            self._seconds_left(), once, request.rounds or LEAST_ROUNDS, request.stability_calls, heads=shape.heads,
            kv_heads=shape.kv_heads, least=self.heads,
        )  # fmt: skip

    def _seconds_of_calls(self) -> list[float]:
        """What one call of each cell takes. A cell apart is taken to need as long as the dense baseline beside it."""
        apart = [] if self.baseline is None else [self.baseline.seconds] * (2 * self.apart)
        return [trial.seconds for trial in self.live()] + apart

    def _seconds_left(self) -> float:
        """What is left of the budget."""
        return self.agenda.request.budget - (CLOCK.seconds() - self.started)

    def use_heads(self, heads: int) -> None:
        """Time ``heads`` heads: make their tensors and verify on the very tensors that will be timed."""
        if not self._take_heads(heads):
            return
        todo = self.live()
        for number, trial in enumerate(todo):
            self._match_again(trial)
            left = sum(t.seconds for t in todo[number:]) * heads
            self.progress.step(f"verifying {trial.job.label} on {heads} heads", number, len(todo), left)
            self.check(trial)
        if self.baseline is not None and self.baseline.verdict is not None:
            self.progress.note(f"the dense baseline failed on {heads} heads, so no speed-ups: {self.baseline.reason}")
            self.baseline = None

    def _match_again(self, trial: Trial) -> None:
        """Find settings of the density that was asked for on the tensors that there are now."""
        with classified() as failure:
            trial.job = self._matched(trial.job)
            trial.cell = self.agenda.cell(trial.job, trial.cell.engine, trial.cell.engine_asked)
        if failure.verdict is not None:
            trial.fail(failure.verdict, failure.reason)

    def _take_heads(self, heads: int) -> bool:
        """Make the tensors of so many heads; return whether they are others than before."""
        if heads == self.heads:
            return False
        self.workload = Workload.make(self.agenda, heads)
        return True

    def choose_rounds(self) -> int:
        """Return the number of rounds that the rules of stopping allow; with ``--precision`` fewer may do."""
        left = self._seconds_left() - sum(eager_calls(trial.seconds) * trial.seconds for trial in self.live())
        calls = 2 if self.agenda.device.type == "cuda" else 1  # a warm call after each cold one
        rules = rules_of(self.agenda.request, left, in_turns=self.others.shared)
        return planned(rules, calls * sum(self._seconds_of_calls()))

    def stop_reason(self, trial: Trial) -> str:
        """Return why a trial has so many samples and no more."""
        taken, shared = len(trial.samples), self.others.shared
        return why_stopped(self.agenda.request, taken, precise=self._precise, in_turns=shared)

    @property
    def _precise(self) -> bool:
        """Whether every speed-up, or latency where there is no baseline, is known as well as was asked for."""
        width = self.agenda.request.precision
        if width is None:
            return False
        dense = {sample.round: sample.cold_ms for sample in self.baseline.samples} if self.baseline else {}
        compared = [trial for trial in self.live() if trial is not self.baseline] or self.live()
        figures = ([dense.get(sample.round, 1.0) / sample.cold_ms for sample in trial.samples] for trial in compared)
        return Precision(width).reached(figures)

    def time_round(self, number: int, rounds: int, journal: Callable[[Sample], object]) -> None:
        """Time every live trial that has no sample of this round yet, and journal each sample as it is taken.

        Once the precision asked for is reached, rounds are empty. The last round also times calls back to back, as a
        caller without a CUDA graph makes them, and the parts of a call that are told apart.
        """
        if not self._precise:
            self._interleave(number, rounds, journal)
        if number == rounds - 1:
            self._time_apart()

    def _time_apart(self) -> None:
        """Time what is not in the rounds: calls without a pause, the selection by itself, and making a state anew."""
        for trial in self.live():
            with classified() as failure:
                if count := loans_within(self.inputs, eager_calls(trial.seconds)):
                    calls = CallsInTurn(trial, self.workload, count)
                    eager = Eager(self.stopwatch.back_to_back(calls.run, calls.prepare, count), count)
                    calls.check()
                    trial.eager = eager
                if trial in self.todo:  # of another dense baseline no row tells
                    time_selection(trial, self.workload, self.stopwatch)
                self._time_refresh(trial)
            if failure.verdict is not None:
                trial.fail(failure.verdict, failure.reason)

    def _time_refresh(self, trial: Trial) -> None:
        """Time what makes the state of a trial's method anew, if it has one, and say what it costs."""
        time_refresh(trial, self.workload, self.stopwatch)
        cycle = trial.job.cycle
        if cycle is not None and trial.refresh_ms is not None and trial.samples:
            steady = statistics.median(sample.cold_ms for sample in trial.samples)
            other = "" if trial.other_ms is None else f", one of {cycle.other_every:.3g} takes {trial.other_ms:.4g} ms"
            mean = cycle.amortised(steady, trial.refresh_ms, trial.other_ms or 0.0)
            self.progress.note(
                f"{trial.job.label}: a step takes {steady:.4g} ms{other}, and one of {cycle.every:.3g} makes the state "
                f"anew in {trial.refresh_ms:.4g} ms: {mean:.4g} ms a step"
            )

    def _interleave(self, number: int, rounds: int, journal: Callable[[Sample], object]) -> None:
        for turn in one_round(self.live(), number, rounds):
            trial = turn.item
            if any(sample.round == number for sample in trial.samples):
                continue
            left = sum(t.seconds for t in turn.order[turn.place :])
            left += (rounds - number - 1) * sum(t.seconds for t in turn.order)
            name = "dense baseline" if trial is self.baseline else trial.job.label
            self.progress.step(f"{turn.label}: {name}", turn.done, turn.total, left)
            waited = self._wait_for_turn(trial, number)
            with classified() as failure:
                if waited and trial.seconds < _WARMED_UP_SECONDS:
                    self._warm_up(trial, number)
                sample = self._sample(trial, number)
            if failure.verdict is not None:
                trial.fail(failure.verdict, failure.reason)
                continue
            trial.samples.append(sample)
            journal(sample)

    def _wait_for_turn(self, trial: Trial, number: int) -> bool:
        """Let the runs that take turns with this one work, if there are any; what they do is no load of this one."""
        before = read_counters()
        owner = self.trials[0] if self.group else trial  # the dense baseline in a group is timed for its owner
        alone = owner.job.method.name in of_one_version()
        given = self.others.turn(self.group, number, trial.cell.identity, alone=alone)
        if given is None:
            return False
        self.turns.settle(number, given)
        self.load.leave_out(before)
        return True

    def _warm_up(self, trial: Trial, number: int) -> None:
        """Make a call on the next input set, untimed, so that a timed one never follows a call of another process."""
        loan = self.workload.lend((self.turns.of(number) + 1) % SETS, disguise=trial.disguise)
        call = self.workload.call(trial.job, trial.cell.engine, loan)
        call.prepare()
        call.run()

    def _sample(self, trial: Trial, number: int) -> Sample:
        """Time one call of a trial."""
        input_set = self.turns.of(number)
        call = TimedCall(trial, self.workload, input_set)
        timing = self.stopwatch.time(call.run, call.prepare)
        call.check()
        trial.seconds = timing.cold_ms / 1e3
        reading, load = read(self.agenda.device), self.load.look()
        return Sample(
            cell_id=trial.cell.identity,
            round=number,
            group=self.group,
            cold_ms=timing.cold_ms,
            warm_ms=timing.warm_ms,
            host_ms=timing.host_ms,
            heads_timed=self.heads,
            inputs_hash=self.inputs_hash,
            input_set=input_set,
            threads=self.threads,
            **asdict(load),
            **({} if reading is None else asdict(reading)),
        )
