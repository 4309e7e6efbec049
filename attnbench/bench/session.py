"""A run from request to journal: start it, interrupt it, resume it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from attnbench.bench.bench import Bench
from attnbench.bench.jobs import Agenda, make_agenda
from attnbench.bench.request import Request, read_request
from attnbench.bench.rows import make_row, withdraw_throttled
from attnbench.bench.trial import Trial
from attnbench.machine.command import typed_command
from attnbench.machine.environment import collect_environment
from attnbench.results.conditions import require_same
from attnbench.results.journal import Journal, JournalRecord
from attnbench.results.records.cells import Environment, Row, Sample
from attnbench.results.records.older import with_cells
from attnbench.results.run import Progress, announce, begin, choose_place, finished, reopen, usable_samples


@dataclass(frozen=True)
class Outcome:
    """Where a run's journal is, and all of its rows."""

    folder: Path
    rows: tuple[Row, ...]


After = Callable[[Bench, Journal, tuple[Row, ...]], None]
"""What a session does once every cell has its row, with the tensors still there and the journal open."""


def start(request: Request, out: Path | None, progress: Progress, after: After | None = None) -> Outcome:
    """Run a request from the beginning.

    Args:
        out: folder of the run; by default results/runs/<run id>, to which results/latest then points.
        after: called with the rows when all are written, to append more.

    Raises:
        BadInput: for a request or a folder that cannot be used; nothing is written then.
    """
    agenda = make_agenda(request)
    place = choose_place(out)
    bench = Bench(agenda, progress)
    with begin(place, _environment(agenda), request.model_dump(mode="json"), agenda.contents) as journal:
        announce(place, progress)
        outcome = _measure(bench, journal, place.run_id, progress, ())
        if after is not None:
            after(bench, journal, outcome.rows)
        return outcome


def resume(folder: Path, progress: Progress, after: After | None = None) -> Outcome:
    """Finish an interrupted run: its finished cells stay, its samples count, the rest is measured.

    Args:
        folder: of the run.
        progress: told what is done.
        after: called with all rows, and the bench with the trials of all cells on the tensors that were timed.

    Raises:
        BadInput: if there is no run, or it was made on another device.
    """
    journal, header, records = reopen(folder)
    with journal:
        request = read_request(**header.request)
        agenda = make_agenda(request)
        bench = Bench(agenda, progress)
        used = [record.threads for record in records if isinstance(record, (Row, Sample))]
        require_same(
            folder, header, _environment(agenda), agenda.contents, progress.note, threads=(used, bench.threads)
        )
        progress.started(str(folder))
        outcome = _measure(bench, journal, header.run_id, progress, records)
        if after is not None:
            bench.reopen(outcome.rows)
            after(bench, journal, outcome.rows)
        return outcome


def _measure(
    bench: Bench, journal: Journal, run_id: str, progress: Progress, records: Iterable[JournalRecord]
) -> Outcome:
    rows = {record.cell_id: record for record in records if isinstance(record, Row)}
    done = {cell_id: row for cell_id, row in rows.items() if finished(row)}
    bench.leave_out(done)
    if not bench.todo:
        progress.note("nothing left to do: every cell of this run has its row")
        return Outcome(journal.folder, tuple(done.values()))

    def write(trials: Iterable[Trial]) -> None:
        for trial in trials:
            row = make_row(bench, trial, run_id)
            journal.append(row)
            done[row.cell_id] = row

    old = with_cells(usable_samples(records), _older_names(bench))
    bench.prepare(_earlier_baseline(bench, rows.values(), old))
    heads = {sample.heads_timed for sample in old}
    bench.use_heads(heads.pop() if len(heads) == 1 else bench.choose_heads())
    reused = _reuse(bench, old)
    if old:
        progress.note(f"resumed: {reused} of {len(old)} earlier samples count")
    rounds = bench.choose_rounds()
    rounds = max([rounds, *(sample.round + 1 for trial in bench.live() for sample in trial.samples)])
    write(trial for trial in bench.todo if trial.verdict is not None)
    for number in range(rounds):
        bench.time_round(number, rounds, journal.append)
    for trial in bench.live():
        withdraw_throttled(trial)
    if bench.baseline is not None and bench.baseline.verdict is not None:
        progress.note(f"no speed-ups: the dense baseline is {bench.baseline.verdict}: {bench.baseline.reason}")
    write(trial for trial in bench.todo if trial.cell.identity not in done)
    return Outcome(journal.folder, tuple(done.values()))


def _earlier_baseline(bench: Bench, rows: Iterable[Row], samples: Iterable[Sample]) -> str | None:
    """Return the engine of the dense baseline that an earlier part of this run chose; None if it did not get so far.

    The choice rests on a measurement: made again, it may fall on another engine, and one run would have two baselines.
    """
    for row in rows:
        if row.baseline is not None:
            return row.baseline.removeprefix("full/")
    asked = {trial.cell.identity for trial in bench.todo}
    sampled = {sample.cell_id for sample in samples}
    identities = {name: cell.identity for name, cell in bench.dense_cells().items()}
    timed = [name for name, identity in identities.items() if identity in sampled]
    # The first round begins with the baseline, unless it is one of the cells asked for.
    return min(timed, key=lambda name: identities[name] in asked, default=None)


def _older_names(bench: Bench) -> dict[str, str]:
    """Return the cell_id of each cell of this run by the one that journals before schema 3 have."""
    cells = [*bench.dense_cells().values(), *(trial.cell for trial in bench.trials)]
    return {cell.legacy_identity: cell.identity for cell in cells}


def _environment(agenda: Agenda) -> Environment:
    return collect_environment("cuda" if agenda.device.type == "cuda" else "cpu", typed_command())


def _reuse(bench: Bench, samples: list[Sample]) -> int:
    """Give earlier samples back to their trials if they were taken on the same tensors; return how many were."""
    count = 0
    for trial in bench.live():
        mine = [s for s in samples if s.cell_id == trial.cell.identity and s.inputs_hash == bench.inputs.hash]
        trial.samples = [s for s in mine if (s.heads_timed, s.threads) == (bench.heads, bench.threads)]
        count += len(trial.samples)
    return count
