"""A run from request to journal: start it, interrupt it, resume it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from attnbench.bench.apart.cells import Parts, base_agenda, choose, list_cells, split
from attnbench.bench.apart.process import Ahead
from attnbench.bench.bench import Bench
from attnbench.bench.in_turns import in_turns
from attnbench.bench.jobs import Agenda, make_agenda
from attnbench.bench.measure import measure
from attnbench.bench.packages import package_contents, package_versions
from attnbench.bench.request import Request, read_request
from attnbench.kernels.errors import BadInput
from attnbench.machine.command import typed_command
from attnbench.machine.environment import collect_environment
from attnbench.methods.entries import unknown_methods
from attnbench.results.conditions import require_same
from attnbench.results.journal import Journal, JournalRecord
from attnbench.results.records.cells import Choices, Environment, Row, Sample
from attnbench.results.records.older import with_cells
from attnbench.results.run import Progress, announce, begin, choose_place, finished, reopen, usable_samples


@dataclass(frozen=True)
class Outcome:
    """Where a run's journal is, and all of its rows."""

    folder: Path
    rows: tuple[Row, ...]


class After(Protocol):
    """What a session does once every cell has its row, with the journal open."""

    def __call__(self, bench: Bench, journal: Journal, rows: tuple[Row, ...]) -> None:
        """Do it for the cells that shared this process, whose tensors are still there."""

    def apart(self, parts: Parts, journal: Journal, rows: tuple[Row, ...]) -> None:
        """Do it for the cells that had processes of their own."""


def start(request: Request, out: Path | None, progress: Progress, after: After | None = None) -> Outcome:
    """Run a request from the beginning.

    Args:
        request: what to measure.
        out: folder of the run; by default results/runs/<run id>, to which results/latest then points.
        progress: told what is done.
        after: called with the rows when all are written, to append more.

    Raises:
        BadInput: for a request or a folder that cannot be used; nothing is written then.
    """
    base = base_agenda(request)
    place = choose_place(out)
    shared = in_turns().begin()
    bench, parts = _parts(request, base, progress)
    with parts.ahead() as ahead:
        choices = _choose(parts, len(parts.cells), progress, ahead) if bench is None else None
        contents = base.contents | package_contents(request)
        asked = request.model_dump(mode="json")
        unknown = unknown_methods(request.methods)
        for name in unknown:
            progress.note(f"left out: only the other version of this gate has the method {name!r}")
        here = environment_of(base, request)
        with begin(place, here, asked, contents, in_turns=shared, unknown_methods=unknown) as journal:
            announce(place, progress)
            records = [] if choices is None else [choices]
            journal.append(*records)
            outcome = _measure(bench, parts, journal, place.run_id, progress, records, ahead)
            _do_after(after, bench, parts, journal, outcome.rows)
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
        if request.gpus is not None:
            raise BadInput(
                f"{str(folder)!r} is a run over {request.gpus} ranks; continue with: attnbench run --resume {folder}"
            )
        base = base_agenda(request)
        bench, parts = _parts(request, base, progress)
        used = [record.threads for record in records if isinstance(record, (Row, Sample))]
        threads = parts.threads if base.device.type == "cpu" else None
        here, contents = environment_of(base, request), base.contents | package_contents(request)
        require_same(folder, header, here, contents, progress.note, threads=(used, threads))
        progress.started(str(folder))
        with parts.ahead() as ahead:
            outcome = _measure(bench, parts, journal, header.run_id, progress, records, ahead)
        if bench is not None and after is not None:
            bench.reopen(outcome.rows)
        _do_after(after, bench, parts, journal, outcome.rows)
        return outcome


def _do_after(after: After | None, bench: Bench | None, parts: Parts, journal: Journal, rows: tuple[Row, ...]) -> None:
    if after is None:
        return
    if bench is not None:
        after(bench, journal, rows)
    if parts.cells:
        after.apart(parts, journal, rows)


def _parts(request: Request, base: Agenda, progress: Progress) -> tuple[Bench | None, Parts]:
    """Return the bench of the cells that share this process, None if none does, and the cells that do not.

    Raises:
        BadInput: for a request that cannot be used.
    """
    threads = torch.get_num_threads()
    shared, apart = split(request, base.device.type)
    parts = Parts(request, list_cells(request, apart, base, threads), base, threads)
    if not shared and request.methods:
        return None, parts
    if shared and request.cell_timeout is not None:
        names = ", ".join(dict.fromkeys(entry.method for entry in shared))
        progress.note(f"--cell-timeout does not stop {names}, which share this process; see --isolate")
    bench = Bench(make_agenda(request.model_copy(update={"methods": shared})), progress)
    bench.apart = len(parts.cells)
    return bench, parts


def _measure(
    bench: Bench | None,
    parts: Parts,
    journal: Journal,
    run_id: str,
    progress: Progress,
    records: Sequence[JournalRecord],
    ahead: Ahead,
) -> Outcome:
    rows = {record.cell_id: record for record in records if isinstance(record, Row)}
    done = {cell_id: row for cell_id, row in rows.items() if finished(row)}
    old = usable_samples(records)
    choices = next((record for record in records if isinstance(record, Choices)), None)
    left = [each for each in parts.cells if each.cell_id not in done]
    if bench is not None:
        bench.leave_out(done)
    if not left and (bench is None or not bench.todo):
        progress.note("nothing left to do: every cell of this run has its row")
        return Outcome(journal.folder, tuple(done.values()))
    if bench is not None and bench.todo:
        shared = with_cells((sample for sample in old if not sample.group), _older_names(bench))
        earlier = earlier_baseline(bench, rows.values(), shared)

        def decided(made: Choices) -> None:
            nonlocal choices
            choices = made.model_copy(update={"cells": _means(bench, parts)})
            if left:
                journal.append(choices)

        done |= {
            row.cell_id: row
            for row in measure(
                bench, journal.append, run_id, progress, shared, baseline=earlier, choices=choices, decided=decided
            )
        }
    if left:
        if choices is None:
            choices = _choose(parts, len(left), progress, ahead, bench)
            journal.append(choices)
        made = parts.measure(journal.append, run_id, progress, old, choices, done, ahead)
        done |= {row.cell_id: row for row in made}
    return Outcome(journal.folder, tuple(done.values()))


def _choose(parts: Parts, cells: int, progress: Progress, ahead: Ahead, bench: Bench | None = None) -> Choices:
    made = choose(parts.request, cells, parts.threads, progress, ahead)
    return made.model_copy(update={"cells": _means(bench, parts)})


def _means(bench: Bench | None, parts: Parts) -> dict[str, str]:
    """Return the cell_id of every cell of a run, and that of its mean over layers."""
    cells = [*(trial.cell for trial in (bench.trials if bench else ())), *(each.listed.cell for each in parts.cells)]
    return {cell.identity: cell.mean_identity for cell in cells}


def earlier_baseline(bench: Bench, rows: Iterable[Row], samples: Iterable[Sample]) -> str | None:
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


def environment_of(agenda: Agenda, request: Request) -> Environment:
    """Describe this machine, and the versions of other packages that take part."""
    here = collect_environment("cuda" if agenda.device.type == "cuda" else "cpu", typed_command())
    return here.model_copy(update={"packages": here.packages | package_versions(request)})
