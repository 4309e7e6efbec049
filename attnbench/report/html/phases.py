"""Where the time of a case's rows goes: a table of phases, and a waterfall for each sparse row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnbench.report.cases import Case
from attnbench.report.html.phase_details import (
    COLUMNS,
    PASSES,
    PhaseDetail,
    ceilings_words,
    memory_words,
    phase_details,
)
from attnbench.report.waterfalls import measured_top
from attnbench.report.words import NONE, number
from attnbench.results.records.cells import PhaseRow

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class PhaseLine:
    """A line of the table: label and pass of a row, time of every phase with its share, memory, and complaint."""

    label: str
    pass_: str
    cells: tuple[tuple[str, str], ...]
    total: str
    memory: str
    complaint: str
    trace: str


@dataclass(frozen=True)
class PhaseTable:
    """The phases of a case.

    Attributes:
        phases: the columns that any line has, in the order of a call.
        lines: one for each row and pass.
        details: one for each phase and provenance.
        ceilings: what the run's matrix product and copy reached, in words.
    """

    phases: tuple[str, ...]
    lines: tuple[PhaseLine, ...]
    details: tuple[PhaseDetail, ...]
    ceilings: str

    columns = COLUMNS


def phase_table(case: Case, phases: Mapping[str, Sequence[PhaseRow]], traces: Mapping[str, str]) -> PhaseTable | None:
    """Return the table of measured phases of a case's timed rows; None if none was profiled.

    Args:
        case: the rows.
        phases: by row_id.
        traces: where the Chrome trace of a cell is, by cell_id.
    """
    profiled = [row for row in case.timed if phases.get(row.row_id)]
    if not profiled:
        return None
    measured = {row.row_id: measured_top(phases[row.row_id]) for row in profiled}
    names = tuple(dict.fromkeys(phase.phase for phase in _in_order(measured.values())))
    lines = []
    for row in profiled:
        passes = list(dict.fromkeys(phase.pass_ for phase in measured[row.row_id]))
        for pass_ in passes:
            times = {phase.phase: phase for phase in measured[row.row_id] if phase.pass_ == pass_}
            total = sum(phase.time_ms for phase in times.values())
            lines.append(
                PhaseLine(
                    label=case.label(row, case.timed),
                    pass_=PASSES[pass_] if len(passes) > 1 else "",
                    cells=tuple(_cell(times.get(name), total) for name in names),
                    total=number(total),
                    memory=memory_words(row, phases[row.row_id]) if pass_ == passes[0] else "",
                    complaint=next(iter(times.values())).complaint,
                    trace=traces.get(row.cell_id, "") if pass_ == passes[0] else "",
                )
            )
    details = [
        detail for row in profiled for detail in phase_details(row, case.label(row, case.timed), phases[row.row_id])
    ]
    mine = {row.row_id: phases[row.row_id] for row in profiled}
    return PhaseTable(names, tuple(lines), tuple(details), ceilings_words(mine))


def _in_order(lists: Iterable[Sequence[PhaseRow]]) -> list[PhaseRow]:
    """Return all phases in order.

    The longest list gives the order of most of them; time outside any phase comes last.
    """
    joined = [phase for one in sorted(lists, key=len, reverse=True) for phase in one]
    return sorted(joined, key=lambda phase: phase.phase in ("other", "gap"))


def _cell(phase: PhaseRow | None, total: float) -> tuple[str, str]:
    if phase is None:
        return NONE, ""
    share = f"{phase.time_ms / total:.0%}" if total else ""
    kernels = f"{phase.kernels} kernel{'s' if phase.kernels != 1 else ''}" if phase.kernels else ""
    return number(phase.time_ms), " · ".join(filter(None, (share, kernels)))
