"""A baseline that is moved: a run that passed becomes the committed table that later runs are compared with."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from attnbench.kernels.errors import BadInput
from attnbench.results.compare import CellChange, Comparison
from attnbench.results.files import write_together
from attnbench.results.find import PARQUET, find_tables, has_journals
from attnbench.results.load import Results, read
from attnbench.results.records.cells import Row
from attnbench.results.tables import LEFT_OUT, TABLE, Accepted, csv_bytes, read_accepted, table_bytes

NOT_IN_TWIN = ("row_id", "run_id", "settings", "stop_reason", "samples_ms", "kernels", LEFT_OUT)
"""Columns of a table that its CSV twin lacks.

Each run changes the identifiers. Settings follow from those that were given, and why a run stopped tells nothing of the
result. The others are too long for a diff.
"""


@dataclass(frozen=True)
class Baseline:
    """The table of a baseline. ``before`` is what it holds so far, and nothing if it is begun now."""

    path: Path
    before: Results
    accepted: tuple[Accepted, ...]

    @property
    def begun(self) -> bool:
        """Whether there is no such table yet."""
        return not self.before.rows


def open_baseline(path: Path) -> Baseline:
    """Return the table that a path stands for, to be moved: a file, or the one table of a folder that has no journal.

    Raises:
        BadInput: if the path stands for journals, for several tables, or for a table that cannot be read.
    """
    place = _table_at(path)
    if not os.path.exists(place):
        return Baseline(place, Results(), ())
    return Baseline(place, read(place), tuple(read_accepted(place)))


def _table_at(path: Path) -> Path:
    is_folder = os.path.isdir(path)  # False also for names that the system refuses
    if path.suffix == PARQUET and not is_folder:
        return path
    if is_folder and has_journals(path):
        raise BadInput(
            f"{str(path)!r} is read by its journals, which --update leaves as they are: name {str(path / TABLE)!r}"
        )
    if is_folder:
        tables = find_tables(path)
        if len(tables) > 1:
            raise BadInput(f"{str(path)!r} holds {len(tables)} tables: name the one that --update is to move")
        return tables[0] if tables else path / TABLE
    if os.path.exists(path) or path.suffix:
        raise BadInput(f"--update writes a table: {str(path)!r} must end in {PARQUET}, or be a folder")
    return path / TABLE


def may_move(baseline: Baseline, run: Results, judged: Comparison) -> bool:
    """Whether a run may become the baseline: it has a latency, and no regression that is not allowed.

    Where nothing could be compared, that is so only if the table is begun, or all that is missing is allowed.
    """
    regressed = any(cell.is_regression for cell in judged.cells)
    meant = baseline.begun or any(cell.allowed for cell in judged.cells)
    comparable = judged.refusal is None and (judged.exit_code != 4 or meant)
    return comparable and not regressed and any(row.verdict == "ok" for row in run.rows)


def twin_bytes(rows: Iterable[Row]) -> bytes:
    """Return rows as the CSV that is committed beside a table for diffs: seven digits, without ``NOT_IN_TWIN``."""
    return csv_bytes(Row, rows, NOT_IN_TWIN, digits=7)


def move(baseline: Baseline, run: Results, judged: Comparison) -> list[Path]:
    """Write a run as the baseline's table, with its CSV twin, and what was allowed of it. Return the files.

    What was allowed is in the table's metadata, and for diffs in ``<table>.accepted.csv``.

    Raises:
        BadInput: if the files cannot be written; they are as they were then.
    """
    run_id = max(row.run_id for row in run.rows)  # it begins with the time
    accepted = [*baseline.accepted, *(_accepted(run_id, cell) for cell in judged.cells if cell.allowed)]
    contents = {
        baseline.path: table_bytes(run.headers, run.rows, run.samples, accepted),
        baseline.path.with_suffix(".csv"): twin_bytes(run.rows),
    }
    if accepted:
        contents[baseline.path.with_suffix(".accepted.csv")] = csv_bytes(Accepted, accepted)
    write_together(contents, "the baseline is as it was")
    return list(contents)


def _accepted(run_id: str, cell: CellChange) -> Accepted:
    return Accepted(
        run_id=run_id,
        cell_id=cell.cell_id,
        method=cell.cell["method"],
        settings_given=cell.cell["settings_given"],
        layers=cell.cell["layers"],
        change=cell.change,
        reason=cell.reason,
        attributes=list(cell.attributes),
        a_ms=cell.a_ms,
        b_ms=cell.b_ms,
        ratio=cell.ratio,
        lo=cell.lo,
        hi=None if cell.hi == float("inf") else cell.hi,
    )
