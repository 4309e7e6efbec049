"""Rows of attention over several ranks: verified against one process, timed by the slowest rank.

Rank 0 verifies every cell in one process as ``attnbench run`` does, and writes the run. In each round it also times the
call in one process. Then all ranks begin together, each with its share of the tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnbench.bench.bench import Bench
from attnbench.bench.calls import Call, forward_call, training_call
from attnbench.bench.jobs import make_agenda
from attnbench.bench.packages import package_contents
from attnbench.bench.profile.call import profile_call
from attnbench.bench.profile.cells import make_phase_row, repeats_for
from attnbench.bench.request import Request
from attnbench.bench.rounds import one_round
from attnbench.bench.rows import finite_or_none, make_row, withdraw_throttled
from attnbench.bench.session import Outcome, environment_of
from attnbench.bench.trial import Trial, classified, dense_job
from attnbench.kernels.errors import BadInput
from attnbench.kernels.witness import watching
from attnbench.machine.clock import CLOCK
from attnbench.machine.memory import measure_peak
from attnbench.machine.telemetry import read
from attnbench.parallel.collectives import counting
from attnbench.parallel.deal import deal
from attnbench.results.journal import Journal
from attnbench.results.records.cells import PhaseRow, Row, Sample
from attnbench.results.run import NoProgress, Progress, announce, begin, choose_place
from attnbench.scale.ranks import Crew, joined

_SLACK = 2.0
"""How many times what rounding explains of one result two of them may differ by."""


def check_group(request: Request) -> None:
    """Find what is wrong with a request of several ranks, without measuring.

    Raises:
        BadInput: quoting what cannot be used.
    """
    given = {"density": request.density, "precision": request.precision, "isolate": request.isolate}
    for name, value in given.items():
        if value is not None:
            raise BadInput(f"--{name} is not possible with --gpus: leave it out")
    if request.timer not in (None, "events", "wall"):
        raise BadInput(f"--timer {request.timer} is not possible with --gpus; events and wall are")
    agenda = make_agenda(request)
    assert request.gpus is not None
    shape, way = agenda.shape, request.parallel or "ulysses"
    deal(way, request.gpus, shape.heads, shape.kv_heads)
    if request.gpus > shape.layout.tokens:
        raise BadInput(f"--gpus is {request.gpus}, and the grid {shape.grid} has {shape.layout.tokens} tokens")


@dataclass(frozen=True)
class GroupOutcome(Outcome):
    """A run over several ranks, and the phases of its cells on rank 0, if they were asked for."""

    phases: tuple[PhaseRow, ...] = ()


def run_group(
    request: Request, out: Path | None, progress: Progress, *, profiled: bool = False, repeats: int | None = None
) -> GroupOutcome | None:
    """Measure a request with the other ranks.

    Args:
        request: the same on all ranks; ``gpus`` says how many there are.
        out: folder of the run; by default results/runs/<run id>.
        progress: told what is done, on rank 0.
        profiled: whether the cells are profiled too.
        repeats: recorded calls per cell; None for as many as are worth their time.

    Returns:
        the run, on rank 0; None on the others.

    Raises:
        BadInput: for a request or a folder that cannot be used.
        RankLost: if another rank ended.
    """
    request = request.model_copy(update={"parallel": request.parallel or "ulysses"})
    agenda = make_agenda(request)
    with joined(agenda.device) as crew:
        bench = Bench(agenda, progress if crew.leads else NoProgress(), heads=agenda.shape.heads)
        group = _Group(crew, bench)
        if not crew.leads:
            group.measure(lambda record: None)
            if profiled:
                group.profile((), repeats)
            return None
        place = choose_place(out)
        contents = agenda.contents | package_contents(request)
        here = environment_of(agenda, request)
        with begin(place, here, request.model_dump(mode="json"), contents) as journal:
            announce(place, progress)
            rows = group.write(journal, place.run_id)
            phases = group.profile(rows, repeats) if profiled else ()
            journal.append(*phases)
            return GroupOutcome(journal.folder, rows, phases)


@dataclass
class _Figures:
    """What is known of a cell besides its samples; lists have one figure a round."""

    error: float = 0.0
    sent: int = 0
    one_ms: list[float] = field(default_factory=list)
    exchange_ms: list[float] = field(default_factory=list)
    imbalance: list[float] = field(default_factory=list)


class _Group:
    """Measures the cells of a bench with the other ranks. All of them take the same steps in the same order."""

    def __init__(self, crew: Crew, bench: Bench) -> None:
        self.crew, self.bench, self.request = crew, bench, bench.agenda.request
        self.figures: dict[int, _Figures] = {}
        tokens, ranks, rank = bench.agenda.shape.layout.tokens, crew.data.size, crew.data.rank
        self.mine = slice(tokens * rank // ranks, tokens * (rank + 1) // ranks)

    def write(self, journal: Journal, run_id: str) -> tuple[Row, ...]:
        """Measure, and write the rows."""
        self.measure(journal.append)
        rows = []
        for trial in self.bench.todo:
            withdraw_throttled(trial)
            row = make_row(self.bench, trial, run_id)
            rows.append(Row.model_validate(row.model_dump() | self._columns(trial, row)))
            journal.append(rows[-1])
        return tuple(rows)

    def measure(self, journal: Callable[[Sample], object]) -> None:
        """Verify and time every cell."""
        bench, crew = self.bench, self.crew
        if crew.leads:
            bench.prepare()
        self._agree()
        for trial in bench.live():
            bench.progress.step(f"verifying {trial.job.label} on {crew.data.size} ranks", 0, 1, None)
            self._verify(trial)
        if bench.baseline is not None and bench.baseline.verdict is not None:
            bench.progress.note(f"no dense baseline over the ranks, so no speed-ups: {bench.baseline.reason}")
            bench.baseline = None
        rounds = crew.hear(bench.choose_rounds() if crew.leads else None)
        for number in range(rounds):
            for turn in one_round(bench.live(), number, rounds):
                bench.progress.step(f"{turn.label}: {turn.item.job.label}", turn.done, turn.total, None)
                self._sample(turn.item, number, journal)

    def profile(self, rows: Sequence[Row], repeats: int | None) -> tuple[PhaseRow, ...]:
        """Profile the calls of the ranks, which make them together; rank 0, which has the rows, returns its phases."""
        bench, found = self.bench, []
        timed = {row.cell_id: row for row in rows}
        for trial in [trial for trial in bench.todo if trial.verdict is None]:
            bench.progress.step(f"profiling {trial.job.label}", 0, 1, None)
            count = self.crew.hear(repeats_for(bench.agenda.device, trial, repeats) if self.crew.leads else None)
            row = timed.get(trial.cell.identity)
            with self._together(trial):
                call = self._call(trial)
                profile = profile_call(
                    call.run, call.prepare, self.crew.device, count, memory=False,
                    latency_ms=None if row is None else row.latency_ms,
                )  # fmt: skip
            if trial.verdict is None and row is not None:
                found += [make_phase_row(row, phase, profile.complaint) for phase in profile.phases]
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
            "engine": engine, "group": self.crew.data.group, "parallel": self.request.parallel,
        }  # fmt: skip
        q, k, v = (x[:, :, self.mine].contiguous() for x in lent.qkv)
        if workload.backward:
            return training_call(q, k, v, workload.d_output[:, :, self.mine].contiguous(), arguments)
        return forward_call(q, k, v, arguments)

    def _one(self, trial: Trial) -> Call:
        """Return the call of one process, on all tokens."""
        return self.bench.workload.call(trial.job, trial.cell.engine)

    def _verify(self, trial: Trial) -> None:
        """Compare output and gradients of each rank with those of one process."""
        self.figures[id(trial)] = figures = _Figures()
        errors: list[float] = []
        extra: int | None = None
        with self._together(trial):
            own, one = self._call(trial), self._one(trial)
            with watching() as seen:
                output, peak = measure_peak(own.run, self.crew.device)
            given = [output, *(leaf.grad for leaf in own.leaves if leaf.grad is not None)]
            whole = one.run()
            expected = [whole, *(leaf.grad for leaf in one.leaves if leaf.grad is not None)]
            errors = [_relative(x, y[:, :, self.mine]) for x, y in zip(given, expected, strict=True)]
            extra = None if peak is None else max(0, peak - sum(x.nbytes for x in given))
            if seen.engine:
                trial.cell = trial.cell.model_copy(update={"engine": seen.engine})
                trial.kernels = seen.kernels
        told, bounds = self.crew.tell([errors, extra]), self.crew.hear(self._bounds(trial))
        if trial.verdict is not None:
            return
        trial.peak_extra = max((each for _, each in told if each is not None), default=None)
        figures.error = max(max(each) for each, _ in told)
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
        bench, figures = self.bench, self.figures[id(trial)]
        with self._together(trial):
            if self.crew.leads:
                one = self._one(trial)
                figures.one_ms.append(bench.stopwatch.time(one.run, one.prepare, warm=False).cold_ms)
            call = self._call(trial)
        taken = (0.0, 0.0, 0)
        with self._together(trial):
            if trial.verdict is None:
                with counting(_exchange_timer) as moved:
                    timing = bench.stopwatch.time(call.run, call.prepare, warm=False)
                taken = timing.cold_ms, moved.ms, moved.sent
        told = self.crew.tell(taken)
        if trial.verdict is not None:
            return
        times, exchanges, sent = zip(*told, strict=True)
        own = [max(whole - spent, 1e-6) for whole, spent in zip(times, exchanges, strict=True)]
        figures.exchange_ms.append(min(exchanges))
        figures.imbalance.append(max(1.0, max(own) / statistics.fmean(own)))
        figures.sent = max(figures.sent, *sent)
        reading, load = read(bench.agenda.device), bench.load.look()
        sample = Sample(
            cell_id=trial.cell.identity, round=number, cold_ms=max(times), heads_timed=bench.heads,
            inputs_hash=bench.inputs_hash, threads=bench.threads, **asdict(load),
            **({} if reading is None else asdict(reading)),
        )  # fmt: skip
        trial.samples.append(sample)
        journal(sample)

    def _columns(self, trial: Trial, row: Row) -> dict[str, Any]:
        figures = self.figures.get(id(trial))
        if row.verdict != "ok" or figures is None:
            return {"parallel_error": None if figures is None else finite_or_none(figures.error)}
        one = statistics.median(figures.one_ms)
        return {
            "one_ms": one,
            "ideal_ms": one / self.crew.data.size,
            "imbalance": statistics.median(figures.imbalance),
            "exchange_ms": statistics.median(figures.exchange_ms),
            "sent_mib": figures.sent / 2**20,
            "parallel_error": figures.error,
        }


def _relative(mine: Tensor, whole: Tensor) -> float:
    wide = torch.float64 if whole.dtype == torch.float64 else torch.float32
    difference, size = (mine.to(wide) - whole.to(wide)).norm(), whole.to(wide).norm()
    return float(difference / size) if float(size) else float(difference)


def _exchange_timer(device: torch.device) -> Callable[[], Callable[[], float]]:
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
