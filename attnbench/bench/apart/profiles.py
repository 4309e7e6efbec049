"""Profiles of cells that have processes of their own: each in a fresh one, on the tensors that it was timed on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnbench.bench.apart.cells import Apart, Parts, fields_of, tell
from attnbench.bench.apart.process import work
from attnbench.bench.apart.task import Problem, Profiling, Task, Unbelievable, record_of
from attnbench.methods.entries import Entry
from attnbench.results.journal import Journal
from attnbench.results.records.cells import Choices, PhaseRow, Row
from attnbench.results.run import PartProgress, Progress


def profile_apart(
    parts: Parts, journal: Journal, rows: Sequence[Row], progress: Progress, asked: Profiling
) -> list[PhaseRow]:
    """Profile the cells that have processes of their own and a latency, and append their phases to the journal.

    A cell whose process fails is not profiled, and a note says why; the others are.

    Args:
        parts: of the run.
        journal: of the run, open.
        rows: of the run.
        progress: told what is done.
        asked: what is recorded of each cell.

    Returns:
        the phases of all cells. Those whose phases an earlier part of the run wrote are not profiled again.
    """
    timed = {row.cell_id: row for row in rows if row.verdict == "ok"}
    mine = [each for each in parts.cells if each.cell_id in timed]
    known = {each.cell_id for each in mine}
    found = [record for record in journal.earlier if isinstance(record, PhaseRow) and record.cell_id in known]
    done = {phase.cell_id for phase in found}
    left = [each for each in mine if each.cell_id not in done]
    for number, each in enumerate(left, 1):
        told = PartProgress(progress, each.listed.label, f"profile {number} of {len(left)}, {each.listed.label}")
        phases = _profiled(parts, each, timed[each.cell_id], rows, told, asked)
        if phases:
            journal.command = "profile"  # from here only profile can go on; run would find nothing left to do
            journal.append(*phases)  # together, so that a cell that has any of its phases has all of them
            found += phases
    return found


def _profiled(
    parts: Parts, apart: Apart, row: Row, rows: Sequence[Row], progress: Progress, asked: Profiling
) -> list[PhaseRow]:
    heard: list[PhaseRow] = []
    problems: list[Problem] = []

    def hear(kind: str, value: Any) -> None:
        if kind == "problem":
            problems.append(record_of(Problem, value))
        elif kind == "record":
            phase = record_of(PhaseRow, fields_of(value, "phase"))
            if (phase.cell_id, phase.row_id, phase.run_id) != (row.cell_id, row.row_id, row.run_id):
                raise Unbelievable("handed in the phase of another cell")
            heard.append(phase)
        elif kind != "cell":
            tell(progress, kind, value)

    listed = apart.listed
    entry = Entry(listed.method, dict(listed.settings))
    task = Task(
        do="profile",
        request=parts.request.model_copy(update={"methods": [entry], "layers": [listed.layer]}),
        run_id=row.run_id,
        threads=parts.threads,
        choices=Choices(heads=row.heads_timed, rounds=1, baseline=_engine(row)),
        rows=[each for each in rows if each.row_id == row.row_id or f"{each.method}/{each.engine}" == row.baseline],
        profiling=asked,
    )
    end = work(task, parts.request.seconds_a_cell, hear)
    why = problems[0].text if problems else end.reason
    if why:
        progress.note(f"not profiled: {why}")
        return []
    return heard


def _engine(row: Row) -> str | None:
    return None if row.baseline is None else row.baseline.partition("/")[2]
