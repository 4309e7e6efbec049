"""The rows of cells whose run died with them: a verdict each, where the run itself could not write one."""

from __future__ import annotations

from pathlib import Path

from attnbench.bench.apart.cells import base_agenda, failed_row, list_cells
from attnbench.bench.apart.process import End
from attnbench.bench.request import read_request
from attnbench.machine.device import device_name
from attnbench.results.records.cells import Choices, Row
from attnbench.results.run import reopen


def give_up(folder: Path, end: End) -> int:
    """Write a row for each cell of a run that has none, and return how many these are.

    Nothing is written on another device than the run's: there its cells would be others.

    Args:
        folder: of the run, which no process writes any more.
        end: how its process ended. ``--resume`` measures these cells again.

    Raises:
        BadInput: if there is no run that can be continued, or another process is writing it.
    """
    journal, header, records = reopen(folder)
    with journal:
        if header.environment.device != device_name(header.environment.device_kind):
            return 0
        request = read_request(**header.request)
        base = base_agenda(request)
        threads = header.environment.threads or 1
        heads = next((record.heads for record in records if isinstance(record, Choices)), base.shape.heads)
        done = {record.cell_id for record in records if isinstance(record, Row)}
        cells = [each.listed.cell for each in list_cells(request, request.methods, base, threads)]
        missing = [cell for cell in cells if cell.identity not in done]
        journal.append(*(failed_row(cell, end, header.run_id, base, heads, threads) for cell in missing))
    return len(missing)
