"""Rows of attention over several ranks: verified against one process, timed by the slowest rank.

Rank 0 verifies every cell in one process as ``attnbench run`` does. In each round it also times the call in one
process. Then all ranks begin together, each with its share of the tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from attnbench.bench.bench import Bench
from attnbench.bench.calls import Call, forward_call, training_call
from attnbench.bench.measure import reuse
from attnbench.bench.profile.call import profile_call
from attnbench.bench.profile.cells import make_phase_row, repeats_for, traces_of
from attnbench.bench.rounds import one_round
from attnbench.bench.rows import finite_or_none, make_row, withdraw_throttled
from attnbench.bench.session import earlier_baseline
from attnbench.bench.trial import Trial, classified, dense_job
from attnbench.kernels.witness import watching
from attnbench.machine.clock import CLOCK
from attnbench.machine.memory import measure_peak
from attnbench.machine.telemetry import read
from attnbench.parallel.balance import Balance, pairs_of_heads
from attnbench.parallel.collectives import counting
from attnbench.parallel.deal import BALANCED, way_of
from attnbench.results.journal import Journal, JournalRecord
from attnbench.results.records.cells import PhaseRow, RanksSample, Row, Sample
from attnbench.results.run import finished, usable_samples
from attnbench.scale.ranks import Crew

_SLACK = 2.0
"""How many times what rounding explains of one result two of them may differ by."""


@dataclass(frozen=True, slots=True)
class Profiled:
    """How cells are profiled.

    Attributes:
        repeats: recorded calls per cell; None for as many as are worth their time.
        traces: whether rank 0 writes a Chrome trace of each cell into the run's folder.
    """

    repeats: int | None = None
    traces: bool = True


class Group:
    """Measures the cells of a bench with the other ranks. All of them take the same steps in the same order."""

    def __init__(self, crew: Crew, bench: Bench) -> None:
        self.crew, self.bench, self.request = crew, bench, bench.agenda.request
        self.errors: dict[str, float] = {}
        self.balances: dict[str, Balance] = {}
        tokens, ranks, rank = bench.agenda.shape.layout.tokens, crew.data.size, crew.data.rank
        self.mine = slice(tokens * rank // ranks, tokens * (rank + 1) // ranks)

    def write(self, records: Sequence[JournalRecord], journal: Journal, run_id: str) -> tuple[Row, ...]:
        """Measure what has no row yet and write it, on rank 0; return all rows.

        Args:
            records: what an earlier part of the run wrote.
            journal: of the run.
            run_id: of the run.
        """
        self.measure(records, journal.append)
        rows = [record for record in records if isinstance(record, Row) and finished(record)]
        for trial in self.bench.todo:
            withdraw_throttled(trial)
            row = make_row(self.bench, trial, run_id)
            rows.append(Row.model_validate(row.model_dump() | self._columns(trial, row)))
            journal.append(rows[-1])
        return tuple(rows)

    def measure(self, records: Sequence[JournalRecord], journal: Callable[[Sample], object]) -> None:
        """Verify and time every cell that has no row yet.

        Args:
            records: what an earlier part of the run wrote, on rank 0.
            journal: gets the samples, on rank 0.
        """
        bench, crew = self.bench, self.crew
        earlier = [record for record in records if isinstance(record, Row)]
        bench.leave_out(crew.hear([row.cell_id for row in earlier if finished(row)] if crew.leads else None))
        if not bench.todo:
            bench.progress.note("nothing left to do: every cell of this run has its row")
            return
        samples = usable_samples(records)
        if crew.leads:
            bench.prepare(earlier_baseline(bench, earlier, samples))
        self._agree()
        for trial in bench.live():
            bench.progress.step(f"verifying {trial.job.label} on {crew.data.size} ranks", 0, 1, None)
            self._verify(trial)
        if bench.baseline is not None and bench.baseline.verdict is not None:
            bench.progress.note(f"no dense baseline over the ranks, so no speed-ups: {bench.baseline.reason}")
            bench.baseline = None
        if samples:
            bench.progress.note(f"resumed: {reuse(bench, samples)} of {len(samples)} earlier samples count")
        taken = crew.hear([[sample.round for sample in trial.samples] for trial in bench.live()])
        rounds = crew.hear(bench.choose_rounds() if crew.leads else None)
        rounds = max([rounds, *(number + 1 for each in taken for number in each)])
        known = {id(trial): set(each) for trial, each in zip(bench.live(), taken, strict=True)}
        for number in range(rounds):
            for turn in one_round(bench.live(), number, rounds):
                if number not in known[id(turn.item)]:
                    bench.progress.step(f"{turn.label}: {turn.item.job.label}", turn.done, turn.total, None)
                    self._sample(turn.item, number, journal)

    def profile(self, rows: Sequence[Row], journal: Journal | None, asked: Profiled) -> tuple[PhaseRow, ...]:
        """Profile the calls of the ranks, which make them together; rank 0 writes its phases, and returns all.

        Args:
            rows: of the run, on rank 0.
            journal: of the run, on rank 0.
            asked: how.
        """
        bench, crew, found = self.bench, self.crew, list[PhaseRow]()
        timed = {row.cell_id: row for row in rows if row.verdict == "ok"}
        if journal is not None:
            found = [record for record in journal.earlier if isinstance(record, PhaseRow)]
            bench.reopen(rows)
        done = {phase.cell_id for phase in found}
        todo = set(crew.hear([name for name in timed if name not in done]))
        traces = None
        if journal is not None and todo:
            journal.command = "profile"  # from here only profile can go on; run would find nothing left to do
            traces = traces_of(journal.folder) if asked.traces else None
        for trial in [trial for trial in bench.trials if trial.cell.identity in todo]:
            bench.progress.step(f"profiling {trial.job.label}", 0, 1, None)
            count = crew.hear(repeats_for(bench.agenda.device, trial, asked.repeats) if crew.leads else None)
            row = timed.get(trial.cell.identity)
            if trial.cell.identity not in self.balances:
                self._balance(trial)
            with self._together(trial):
                call = self._call(trial)
                profile = profile_call(
                    call.run, call.prepare, crew.device, count, memory=False,
                    latency_ms=None if row is None else row.latency_ms,
                    trace=None if traces is None else traces / f"{trial.cell.identity}.json.gz",
                )  # fmt: skip
            if trial.verdict is not None:
                bench.progress.note(f"{trial.job.label} could not be profiled: {trial.reason}")
            elif row is not None and journal is not None:
                for note in filter(None, (profile.complaint, *profile.notes)):
                    bench.progress.note(f"{trial.job.label}: {note}")
                phases = [make_phase_row(row, phase, profile.complaint) for phase in profile.phases]
                journal.append(*phases)  # together, so that a cell that has any of its phases has all of them
                found += phases
        return tuple(found)

    def _agree(self) -> None:
        """Let the other ranks know which cells are left, and which engine is the dense baseline."""
        bench = self.bench
        base = bench.baseline
        told = self.crew.hear(
            {
                "trials": [(trial.verdict, trial.reason) for trial in bench.todo],
                "baseline": None if base is None else base.cell.engine,
            }
            if self.crew.leads
            else None
        )
        if self.crew.leads:
            return
        for trial, (verdict, reason) in zip(bench.todo, told["trials"], strict=True):
            trial.verdict, trial.reason = verdict, reason
        name, dense = told["baseline"], dense_job()
        if name is not None:
            asked = (t for t in bench.todo if t.job.method is dense.method and t.cell.engine == name)
            bench.baseline = next(asked, None) or Trial(dense, bench.agenda.cell(dense, name, name))
            bench.baseline.shared = bench.baseline in bench.todo

    @contextmanager
    def _together(self, trial: Trial) -> Iterator[None]:
        """Let all ranks do the piece of work inside; where one fails, the cell fails on all."""
        with classified() as failure:
            yield
        for rank, (verdict, reason) in enumerate(self.crew.tell([failure.verdict, failure.reason])):
            if verdict is not None and trial.verdict is None:
                trial.fail(verdict, reason if rank == 0 else f"rank {rank}: {reason}")

    def _call(self, trial: Trial) -> Call:
        """Return the call of this rank, on its tokens."""
        workload = self.bench.workload
        lent = workload.lend(0)
        engine = trial.cell.engine if trial is self.bench.baseline else self.request.engine
        arguments = workload.arguments(trial.job, lent) | {
            "engine": engine, "group": self.crew.data.group, "parallel": self._parallel(trial),
        }  # fmt: skip
        q, k, v = (x[:, :, self.mine].contiguous() for x in lent.qkv)
        if workload.backward:
            return training_call(q, k, v, workload.d_output[:, :, self.mine].contiguous(), arguments)
        return forward_call(q, k, v, arguments)

    def _parallel(self, trial: Trial) -> str | Balance:
        """Return how the ranks share the call of a cell."""
        return self.balances.get(trial.cell.identity) or way_of(self.request.parallel or "ulysses")

    def _balance(self, trial: Trial) -> bool:
        """Deal the heads of a cell by what they keep, if that was asked for: by rank 0's plan at first.

        Return whether the cell may go on.
        """
        word = self.request.parallel
        if word not in BALANCED:
            return True
        pairs: tuple[int, ...] = ()
        with self._together(trial):
            if self.crew.leads:
                pairs = pairs_of_heads(self.bench.workload.plan(trial.job))
        pairs = tuple(self.crew.hear(pairs))
        if len(set(pairs)) > 1:  # otherwise nothing is to be gained, and nothing need be counted
            self.balances[trial.cell.identity] = Balance(BALANCED[word], pairs=pairs)
        return trial.verdict is None

    def _one(self, trial: Trial) -> Call:
        """Return the call of one process, on all tokens."""
        return self.bench.workload.call(trial.job, trial.cell.engine)

    def _verify(self, trial: Trial) -> None:
        """Compare output and gradients of each rank with those of one process."""
        if not self._balance(trial):
            return
        errors: list[float] = []
        extra: int | None = None
        with self._together(trial):
            own, one = self._call(trial), self._one(trial)
            with watching() as seen:
                output, peak = measure_peak(own.run, self.crew.device)
            given = [output, *(leaf.grad for leaf in own.leaves if leaf.grad is not None)]
            whole = one.run()
            expected = [whole, *(leaf.grad for leaf in one.leaves if leaf.grad is not None)]
            errors = [relative(x, y[:, :, self.mine]) for x, y in zip(given, expected, strict=True)]
            extra = None if peak is None else max(0, peak - sum(x.nbytes for x in given))
            if seen.engine:
                trial.cell = trial.cell.model_copy(update={"engine": seen.engine})
                trial.kernels = seen.kernels
        told, bounds = self.crew.tell([errors, extra]), self.crew.hear(self._bounds(trial))
        if trial.verdict is not None:
            return
        trial.peak_extra = max((each for _, each in told if each is not None), default=None)
        self.errors[trial.cell.identity] = max(max(each) for each, _ in told)
        for rank, (each, _) in enumerate(told):
            for name, error, bound in zip(("output", "dq", "dk", "dv"), each, bounds, strict=False):
                if not error <= bound:
                    trial.fail(
                        "incorrect",
                        f"on rank {rank}, {name} differs from that of one process by {error:.2g}; rounding explains "
                        f"{bound:.2g}",
                    )
                    return

    def _bounds(self, trial: Trial) -> list[float]:
        """Return by how much the output, and the gradients, may differ from those of one process."""
        if trial.rows is None:  # not on this rank
            return []
        output = trial.rows.tolerance + (0.0 if trial.branch is None else trial.branch.tolerance)
        names = ("dq", "dk", "dv")
        gradients = [] if trial.gradients is None else [trial.gradients.tolerances[name] for name in names]
        return [_SLACK * each for each in (output, *gradients)]

    def _sample(self, trial: Trial, number: int, journal: Callable[[Sample], object]) -> None:
        """Time one call: first in one process, on rank 0, then on all ranks, which begin together."""
        bench, one_ms = self.bench, 0.0
        with self._together(trial):
            if self.crew.leads:
                one = self._one(trial)
                one_ms = bench.stopwatch.time(one.run, one.prepare, warm=False).cold_ms
            call = self._call(trial)
        taken, meet = (0.0, 0.0, 0), self.crew.meeting()
        with self._together(trial):
            if trial.verdict is None:
                with counting(exchange_timer) as moved:
                    timing = bench.stopwatch.time_together(call.run, call.prepare, meet)
                taken = timing.cold_ms, moved.ms, moved.sent
        told = self.crew.tell(taken)
        if trial.verdict is not None or not self.crew.leads:
            return
        times, exchanges, sent = zip(*told, strict=True)
        own = [max(whole - spent, 1e-6) for whole, spent in zip(times, exchanges, strict=True)]
        ranks = RanksSample(
            one_ms=one_ms, exchange_ms=min(exchanges), imbalance=max(1.0, max(own) / statistics.fmean(own)),
            sent_mib=max(sent) / 2**20,
        )  # fmt: skip
        reading, load = read(bench.agenda.device), bench.load.look()
        sample = Sample(
            cell_id=trial.cell.identity, round=number, cold_ms=max(times), heads_timed=bench.heads,
            inputs_hash=bench.inputs_hash, threads=bench.threads, ranks=ranks, **asdict(load),
            **({} if reading is None else asdict(reading)),
        )  # fmt: skip
        trial.samples.append(sample)
        journal(sample)

    def _gain(self, trial: Trial) -> float | None:
        if self.request.parallel not in BALANCED:
            return None
        balance = self.balances.get(trial.cell.identity)
        return 1.0 if balance is None else balance.gain

    def _columns(self, trial: Trial, row: Row) -> dict[str, Any]:
        error, taken = self.errors.get(trial.cell.identity), [s.ranks for s in trial.samples if s.ranks is not None]
        if row.verdict != "ok" or not taken:
            return {"parallel_error": None if error is None else finite_or_none(error)}
        one = statistics.median(each.one_ms for each in taken)
        return {
            "one_ms": one,
            "ideal_ms": one / self.crew.data.size,
            "imbalance": statistics.median(each.imbalance for each in taken),
            "balance_gain": self._gain(trial),
            "exchange_ms": statistics.median(each.exchange_ms for each in taken),
            "sent_mib": max(each.sent_mib for each in taken),
            "parallel_error": error,
        }


def relative(mine: Tensor, whole: Tensor) -> float:
    """Return the relative L2 difference of two tensors."""
    wide = torch.float64 if whole.dtype == torch.float64 else torch.float32
    difference, size = (mine.to(wide) - whole.to(wide)).norm(), whole.to(wide).norm()
    return float(difference / size) if float(size) else float(difference)


def exchange_timer(device: torch.device) -> Callable[[], Callable[[], float]]:
    """Time an exchange by events on a GPU, where it goes on after the call, and by the clock elsewhere."""
    if device.type != "cuda":
        start = CLOCK.now()

        def end() -> Callable[[], float]:
            taken = CLOCK.since(start) * 1e3
            return lambda: taken

        return end
    first = torch.cuda.Event(enable_timing=True)
    first.record()

    def end_on_device() -> Callable[[], float]:
        last = torch.cuda.Event(enable_timing=True)
        last.record()

        def elapsed() -> float:
            last.synchronize()
            return float(first.elapsed_time(last))

        return elapsed

    return end_on_device
