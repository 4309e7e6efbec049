"""Measure what a bench has to do: verify, choose heads and rounds, time, and hand in samples and rows as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from attnbench.bench.bench import Bench
from attnbench.bench.rows import make_row, withdraw_throttled
from attnbench.bench.trial import Trial
from attnbench.results.records.cells import Choices, Row, Sample
from attnbench.results.run import Progress

Write = Callable[[Sample | Row], object]
"""Keeps a record. What it raises ends the measurement."""


def measure(
    bench: Bench,
    write: Write,
    run_id: str,
    progress: Progress,
    samples: Sequence[Sample],
    *,
    baseline: str | None = None,
    choices: Choices | None = None,
    decided: Callable[[Choices], object] = lambda choices: None,
) -> list[Row]:
    """Measure the cells of a bench that have no row yet.

    Args:
        bench: knows what is to do.
        write: gets each sample as it is taken, and each row.
        run_id: of the run.
        progress: told what is done.
        samples: that an earlier part of the run took, and that may still count.
        baseline: engine of the dense baseline, if an earlier part of the run chose it.
        choices: what the run decided before; without, it is decided here.
        decided: told what was decided, before the first sample.

    Returns:
        the rows, in the order in which they were written.
    """
    rows: list[Row] = []

    def keep(trials: Iterable[Trial]) -> None:
        for trial in trials:
            row = make_row(bench, trial, run_id)
            write(row)
            rows.append(row)

    if choices is None:
        bench.prepare(baseline)
        heads = {sample.heads_timed for sample in samples}
        chosen = heads.pop() if len(heads) == 1 else bench.choose_heads()
        bench.use_heads(bench.others.least("heads", chosen))
    else:
        bench.prepare(choices.baseline, search=False)
        bench.use_heads(choices.heads)
    reused = reuse(bench, samples)
    if samples:
        progress.note(f"resumed: {reused} of {len(samples)} earlier samples count")
    rounds = bench.others.least("rounds", bench.choose_rounds()) if choices is None else choices.rounds
    rounds = max([rounds, *(sample.round + 1 for trial in bench.live() for sample in trial.samples)])
    if choices is None:
        engine = None if bench.baseline is None else bench.baseline.cell.engine
        decided(Choices(heads=bench.heads, rounds=rounds, baseline=engine))
    keep(trial for trial in bench.todo if trial.verdict is not None)
    written = {row.cell_id for row in rows}
    for number in range(rounds):
        bench.time_round(number, rounds, write)
    for trial in bench.live():
        withdraw_throttled(trial)
    if bench.baseline is not None and bench.baseline.verdict is not None:
        progress.note(f"no speed-ups: the dense baseline is {bench.baseline.verdict}: {bench.baseline.reason}")
    keep(trial for trial in bench.todo if trial.cell.identity not in written)
    return rows


def reuse(bench: Bench, samples: Sequence[Sample]) -> int:
    """Give earlier samples back to their trials if they were taken on the same tensors; return how many were."""
    count = 0
    for trial in bench.live():
        mine = [s for s in samples if s.cell_id == trial.cell.identity and s.inputs_hash == bench.inputs_hash]
        conditions = (bench.heads, bench.threads, bench.group)
        trial.samples = [s for s in mine if (s.heads_timed, s.threads, s.group) == conditions]
        count += len(trial.samples)
        bench.turns.continue_from(trial.samples)
    return count
