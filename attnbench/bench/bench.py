"""Run an agenda: plan, verify, time in rounds, and journal every sample and every finished cell.

Each round times every cell and the dense baseline once, in reversed order every other round, so that a drift of clock
or temperature cancels. What is timed is ``attnbench.attention``: selection, permutation and all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from attnbench import api
from attnbench.bench.jobs import Agenda, Job
from attnbench.bench.trial import Call, PlanFacts, Trial, classified, dense_job, output_of
from attnbench.bench.verify import (
    TwinSpec,
    check_rows,
    check_selection,
    check_twin,
)
from attnbench.inputs.make import Inputs, make_inputs
from attnbench.kernels.engines import Task, choose_engine, dense_engines, get_engine
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.phases import during
from attnbench.kernels.plan import Plan
from attnbench.machine.memory import measure_peak
from attnbench.machine.stopwatch import Stopwatch
from attnbench.machine.telemetry import read
from attnbench.results.records.cells import Sample
from attnbench.results.run import Progress

LEAST_ROUNDS = 3
MOST_ROUNDS = 20

SMALL_TRIALS = 5
"""Small trials of every dense engine, in turns; the quickest of each counts."""

CLOSE = 4.0
"""How many times slower than the fastest a dense engine may be in a small trial to get a full-size one, on CUDA."""


class Bench:
    """Everything one process needs to measure an agenda: the tensors, the stopwatch, the trials and the baseline."""

    def __init__(self, agenda: Agenda, progress: Progress) -> None:
        self.agenda, self.progress = agenda, progress
        self.started = time.perf_counter()
        self.heads = agenda.shape.heads if agenda.device.type == "cuda" else 1
        progress.step(f"inputs: {agenda.request.inputs}", 0, 1, None)
        self.inputs = self._make_inputs(self.heads)
        self.stopwatch = Stopwatch(agenda.device)
        self.trials = self._trials()
        self.baseline: Trial | None = None
        self._d_output: Tensor | None = None

    @property
    def threads(self) -> int | None:
        """CPU threads that torch uses; None where they do not matter."""
        return torch.get_num_threads() if self.agenda.device.type == "cpu" else None

    def _make_inputs(self, heads: int) -> Inputs:
        agenda, request = self.agenda, self.agenda.request
        return make_inputs(
            request.inputs, agenda.shape, heads=heads, dtype=agenda.dtype, device=agenda.device, seed=request.seed
        )

    def _trials(self) -> list[Trial]:
        """Plan every job once to learn which engine runs it.

        Raises:
            Unsupported: if the engine asked for can serve none of them.
        """
        trials = []
        for job in self.agenda.jobs:
            name = self.agenda.request.engine
            with classified() as failure:
                plan = self._plan(job)
                name = choose_engine(name, plan, self._task()).name
            trials.append(Trial(job, self.agenda.cell(job, name), verdict=failure.verdict, reason=failure.reason))
        if all(trial.verdict == "unsupported" for trial in trials):
            raise Unsupported("; ".join(dict.fromkeys(trial.reason for trial in trials)))
        return trials

    def _task(self) -> Task:
        shape, backward = self.agenda.shape, self.agenda.direction == "fwdbwd"
        return Task(
            self.agenda.device,
            self.agenda.dtype,
            shape.head_dim,
            shape.heads,
            shape.kv_heads,
            backward,
            return_lse=False,
        )

    def _plan(self, job: Job) -> Plan:
        arguments = job.arguments(self.agenda.shape)
        return api.select(self.inputs.q, self.inputs.k, **arguments)

    def call(self, job: Job, engine: str) -> Call:
        """Return the call that users make, on this run's tensors."""
        arguments = job.arguments(self.agenda.shape) | {"engine": engine}
        tensors = (self.inputs.q, self.inputs.k, self.inputs.v)
        if self.agenda.direction == "fwd":

            def forward() -> Tensor:
                with torch.no_grad():
                    return output_of(api.attention(*tensors, **arguments))

            return Call(forward, lambda: None, ())
        leaves = tuple(x.detach().requires_grad_() for x in tensors)
        d_output = self._gradient_of_output()

        def both() -> Tensor:
            with during("forward"):
                output = output_of(api.attention(*leaves, **arguments))
            with during("backward"):
                output.backward(d_output)
            return output.detach()

        def clear() -> None:
            for leaf in leaves:
                leaf.grad = None

        return Call(both, clear, leaves)

    def _gradient_of_output(self) -> Tensor:
        """Return the gradient that backward passes start from, made once for the tensors of this run."""
        q = self.inputs.q
        if self._d_output is None or self._d_output.shape != q.shape:
            generator = torch.Generator().manual_seed(self.agenda.request.seed)
            self._d_output = torch.randn(q.shape, generator=generator).to(q.device, q.dtype)
        return self._d_output

    def prepare(self, baseline: str | None = None) -> None:
        """Find the dense baseline, then run, measure and verify every trial once.

        Args:
            baseline: the engine of the dense baseline, if an earlier part of this run chose it.
        """
        self.baseline = self._find_baseline(baseline)
        todo = [trial for trial in self.trials if trial.verdict is None and not trial.shared]
        for number, trial in enumerate(todo):
            left = None if self.baseline is None else self.baseline.seconds * (len(todo) - number)
            self.progress.step(f"verifying {trial.job.label}", number, len(todo), left)
            self.check(trial)

    def check(self, trial: Trial) -> None:
        """Run a trial's call for the first time and verify what came out; on failure set its verdict."""
        job, engine = trial.job, trial.cell.engine
        shape = self.agenda.shape
        with classified() as failure:
            plan = self._plan(job)
            runner = get_engine(engine)
            trial.facts = PlanFacts(
                plan.density, plan.pairs, plan.nbytes, plan.selection_flops, runner.executed_pairs(plan)
            )
            call = self.call(job, engine)
            start = time.perf_counter()
            output, peak = measure_peak(call.run, self.agenda.device)
            trial.seconds = time.perf_counter() - start
            given = [output, *(leaf.grad for leaf in call.leaves if leaf.grad is not None)]
            trial.peak_extra = None if peak is None else max(0, peak - sum(x.nbytes for x in given))
            scale = shape.head_dim**-0.5
            trial.rows = check_rows(
                self.inputs.q, self.inputs.k, self.inputs.v, output, plan, scale, self.agenda.request.seed,
                finishes=job.method.finish is not None,
            )  # fmt: skip
            trial.selection = check_selection(self.inputs.q, self.inputs.k, plan, job.arguments(shape))
            if trial.twin is None:
                trial.twin = check_twin(self._twin(job, engine))
            finite = all(bool(x.isfinite().all()) for x in given)
            if self.agenda.device.type == "cuda":  # the first call compiled kernels
                timings = [self.stopwatch.time(call.run, call.prepare) for _ in range(2)]
                trial.seconds = min(timing.cold_ms for timing in timings) / 1e3
            checks = (trial.rows, trial.selection, trial.twin)
            problem = next((check.problem for check in checks if check is not None and check.problem), None)
            if problem is None and not finite:
                problem = "the gradients are not finite"
            if problem is not None:
                trial.fail("incorrect", problem)
            elif trial.rows.vacuous:
                trial.fail("unsupported", trial.rows.vacuous)
        if failure.verdict is not None:
            trial.fail(failure.verdict, failure.reason)

    def _twin(self, job: Job, engine: str) -> TwinSpec:
        agenda, shape = self.agenda, self.agenda.shape
        return TwinSpec(
            job.method, job.settings, shape.layout, job.layer, None, shape.batch, shape.heads, shape.kv_heads,
            shape.head_dim, agenda.dtype, agenda.device, engine, agenda.direction == "fwdbwd", agenda.request.seed,
        )  # fmt: skip

    def _find_baseline(self, chosen: str | None) -> Trial | None:
        """Time the dense engines that verify, and return the fastest; None, and a note, if there is none."""
        job = dense_job()
        best: Trial | None = None
        problems = []
        for name in self._fast_dense_engines(job) if chosen is None else [chosen]:
            own = next((t for t in self.trials if t.job.method.name == "full" and t.cell.engine == name), None)
            trial = own or Trial(job, self.agenda.cell(job, name))
            self.progress.step(f"dense baseline: full/{name}", 0, 1, None)
            self.check(trial)
            if trial.verdict is not None:
                problems.append(f"{name}: {trial.reason}")
            elif best is None or trial.seconds < best.seconds:
                best = trial
        if best is None:
            self.progress.note(f"no dense baseline, so no speed-ups: {'; '.join(problems) or 'no engine runs it here'}")
            return None
        best.shared = best in self.trials
        return best

    def _fast_dense_engines(self, job: Job) -> list[str]:
        """Return the dense engines worth a full-size trial: on the CPU the fastest of a small one, on CUDA the close.

        A full-size dense call takes 10 s and more a head on a CPU, and its engines differ by a factor of two. On CUDA a
        small trial is too rough to choose by, but shows which engines cannot be the fastest.
        """
        usable = []
        plan = self._plan(job)
        for name in dense_engines():
            if get_engine(name).supports(plan, self._task()) is None:
                usable.append(name)
        if len(usable) < 2:
            return usable
        backward = self.agenda.direction == "fwdbwd"
        on_gpu = self.agenda.device.type == "cuda"
        few = 8192 if on_gpu else 2048
        tensors = (x[:, :, :few] for x in (self.inputs.q, self.inputs.k, self.inputs.v))
        q, k, v = (x.detach().requires_grad_(backward) for x in tensors)
        grid = (1, 1, q.shape[2])
        seconds: dict[str, float] = {}
        for _ in range(SMALL_TRIALS):
            for name in usable:
                with classified() as failure:
                    start = time.perf_counter()
                    output = output_of(api.attention(q, k, v, method=job.method, grid=grid, engine=name))
                    if backward:
                        output.sum().backward()
                    if on_gpu:
                        torch.cuda.synchronize(self.agenda.device)
                    seconds[name] = min(seconds.get(name, float("inf")), time.perf_counter() - start)
                if failure.verdict is not None:  # if no other is left, its full-size trial will say why
                    seconds[name] = float("inf")
        fastest = min(usable, key=lambda name: seconds[name])
        if on_gpu:
            return [name for name in usable if name == fastest or seconds[name] <= CLOSE * seconds[fastest]]
        return [fastest]

    def live(self) -> list[Trial]:
        """The trials to time, with the baseline first if it is not one of them."""
        extra = [] if self.baseline is None or self.baseline.shared else [self.baseline]
        return [trial for trial in (*extra, *self.trials) if trial.verdict is None]

    def choose_heads(self) -> int:
        """Return how many heads the budget allows, at least the one that was verified (on CUDA: all)."""
        shape = self.agenda.shape
        group = shape.heads // shape.kv_heads
        once = sum(trial.seconds for trial in self.live()) / self.heads
        left = self.agenda.request.budget - (time.perf_counter() - self.started)
        rounds = self.agenda.request.rounds or LEAST_ROUNDS
        heads = int(left / (once * (rounds + 1.5))) if once > 0 else shape.heads  # once more to verify them all
        heads = min(shape.heads, heads)
        heads -= heads % group if heads > group else 0
        return max(self.heads, heads)

    def use_heads(self, heads: int) -> None:
        """Time ``heads`` heads: make their tensors and verify on the very tensors that will be timed."""
        if heads == self.heads:
            return
        self.heads, self.inputs = heads, self._make_inputs(heads)
        todo = self.live()
        for number, trial in enumerate(todo):
            left = sum(t.seconds for t in todo[number:]) * heads
            self.progress.step(f"verifying {trial.job.label} on {heads} heads", number, len(todo), left)
            self.check(trial)
        if self.baseline is not None and self.baseline.verdict is not None:
            self.progress.note(f"the dense baseline failed on {heads} heads, so no speed-ups: {self.baseline.reason}")
            self.baseline = None

    def choose_rounds(self) -> int:
        """Return the number of rounds: as asked, otherwise from 3 to 20 as the budget allows."""
        asked = self.agenda.request.rounds
        if asked is not None:
            return asked
        calls = 2 if self.agenda.device.type == "cuda" else 1  # a warm call after each cold one
        once = calls * sum(trial.seconds for trial in self.live())
        left = self.agenda.request.budget - (time.perf_counter() - self.started)
        return max(LEAST_ROUNDS, min(MOST_ROUNDS, int(left / once) if once > 0 else MOST_ROUNDS))

    def time_round(self, number: int, rounds: int, journal: Callable[[Sample], None]) -> None:
        """Time every live trial that has no sample of this round yet, and journal each sample as it is taken."""
        order = self.live() if number % 2 == 0 else self.live()[::-1]
        for place, trial in enumerate(order):
            if any(sample.round == number for sample in trial.samples):
                continue
            left = sum(t.seconds for t in order[place:]) + (rounds - number - 1) * sum(t.seconds for t in order)
            self.progress.step(
                f"round {number + 1} of {rounds}: {'dense baseline' if trial is self.baseline else trial.job.label}",
                number * len(order) + place,
                rounds * len(order),
                left,
            )
            with classified() as failure:
                call = self.call(trial.job, trial.cell.engine)
                timing = self.stopwatch.time(call.run, call.prepare)
                trial.seconds = timing.cold_ms / 1e3
                reading = read(self.agenda.device)
                sample = Sample(
                    cell_id=trial.cell.identity,
                    round=number,
                    cold_ms=timing.cold_ms,
                    warm_ms=timing.warm_ms,
                    host_ms=timing.host_ms,
                    heads_timed=self.heads,
                    inputs_hash=self.inputs.hash,
                    threads=self.threads,
                    **({} if reading is None else asdict(reading)),
                )
                trial.samples.append(sample)
                journal(sample)
            if failure.verdict is not None:
                trial.fail(failure.verdict, failure.reason)
