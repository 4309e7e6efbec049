"""Read results: every journal is opened once, and every record validated once."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attnbench.kernels.errors import BadInput
from attnbench.results.find import PARQUET, find_results
from attnbench.results.journal import JournalRecord, read_journal
from attnbench.results.pairs import baseline_ids, by_round, own_samples
from attnbench.results.records.analysis import AnalysisRow, PremiseRow
from attnbench.results.records.cells import ROUNDING, Choices, Environment, PhaseRow, Row, RunHeader, Sample
from attnbench.results.records.clips import ClipRow, QualityRow, still_true
from attnbench.results.records.steps import StepRecord
from attnbench.results.run import usable_samples
from attnbench.results.tables import read_table

if TYPE_CHECKING:
    import pandas as pd

Key = TypeVar("Key")
Value = TypeVar("Value")

Missing = Mapping[tuple[str, str], int]
"""How many cells have no row, by run_id and the ``cell_id`` of their mean over layers."""


class Unfinished(UserWarning):
    """Cells of a run have no row: it was interrupted, or still goes on."""


@dataclass(frozen=True)
class Results:
    """What a file or a folder of results holds. What was written twice counts once, as last written.

    Attributes:
        headers: of the runs, in the order of the journals.
        rows: of the latency table, one per cell of a run.
        phases: where the time of cells went.
        quality: metrics of clips.
        clips: the clips, each with the folder that its files are named from.
        steps: whole transformer steps.
        analysis: measures of attention.
        premises: verdicts on what methods assume of it.
        samples: of each run, by run_id, those that its latencies may rest on.
        traces: the Chrome traces of cells, by cell_id.
        missing: cells that runs came to and have no row of.
    """

    headers: tuple[RunHeader, ...] = ()
    rows: tuple[Row, ...] = ()
    phases: tuple[PhaseRow, ...] = ()
    quality: tuple[QualityRow, ...] = ()
    clips: tuple[tuple[Path, ClipRow], ...] = ()
    steps: tuple[StepRecord, ...] = ()
    analysis: tuple[AnalysisRow, ...] = ()
    premises: tuple[PremiseRow, ...] = ()
    samples: dict[str, tuple[Sample, ...]] = field(default_factory=dict)
    traces: dict[str, Path] = field(default_factory=dict)
    missing: Missing = field(default_factory=dict)

    @property
    def environments(self) -> dict[str, Environment]:
        """Where each run was measured, by run_id."""
        return {header.run_id: header.environment for header in self.headers}

    @property
    def phases_by_row(self) -> dict[str, list[PhaseRow]]:
        """The phases of each cell that was profiled, by row_id."""
        found: dict[str, list[PhaseRow]] = {}
        for phase in self.phases:
            found.setdefault(phase.row_id, []).append(phase)
        return found

    @property
    def runs(self) -> list[str]:
        """The run_id of every run that left rows, metrics of clips, steps, or measures of attention, in this order."""
        shown: tuple[Row | QualityRow | StepRecord | AnalysisRow, ...] = (
            *self.rows, *self.quality, *self.steps, *self.analysis
        )  # fmt: skip
        return list(dict.fromkeys(record.run_id for record in shown))


def read(*paths: str | os.PathLike[str]) -> Results:
    """Read a journal or a table, or all journals below a folder; of several paths, all of them, each file once.

    Args:
        paths: a journal, a table (``*.parquet``), or a folder that is searched recursively for ``*.jsonl`` and
            ``*.jsonl.gz``, and without any for tables. Links are followed; names that begin with a dot and training
            logs are skipped.

    Warns:
        TornLine: if the last line of a journal is cut off; it is left out.
        Unfinished: if a run has no rows of some of its cells.
        LostLink: if a link below the folder leads nowhere.

    Raises:
        BadInput: if there is no journal and no table, or a record is not valid or of a newer schema; the message names
            the file and the line.
    """
    found: dict[str, Path] = {}
    traces: dict[str, Path] = {}
    for path in paths:
        journals, beside = find_results(path)
        for journal in journals:
            found.setdefault(os.path.realpath(journal), journal)
        traces |= beside
    merged = _Merged()
    for journal in found.values():
        merged.add(journal, read_table(journal) if journal.suffix == PARQUET else read_journal(journal))
    return Results(
        headers=tuple(merged.headers.values()),
        rows=tuple(merged.rows.values()),
        phases=tuple(merged.phases.values()),
        quality=tuple(still_true(merged.quality.values())),
        clips=tuple(merged.clips.values()),
        steps=tuple(merged.steps),
        analysis=tuple(merged.analysis.values()),
        premises=tuple(merged.premises.values()),
        samples=merged.samples,
        traces=_by_cell(traces, merged.rows.values()),
        missing=merged.missing,
    )


def _by_cell(traces: dict[str, Path], rows: Iterable[Row]) -> dict[str, Path]:
    """Return traces by cell_id: the files of older runs are named after the cell_id of then."""
    names = {row.legacy_identity: row.cell_id for row in rows if row.schema_version < 3} if traces else {}
    return {names.get(name, name): trace for name, trace in traces.items()}


class _Merged:
    """The records of several journals by what tells them apart, in the order in which they were last written."""

    def __init__(self) -> None:
        self.headers: dict[str, RunHeader] = {}
        self.rows: dict[str, Row] = {}
        self.phases: dict[tuple[str | None, ...], PhaseRow] = {}
        self.quality: dict[tuple[object, ...], QualityRow] = {}
        self.clips: dict[tuple[str, str], tuple[Path, ClipRow]] = {}
        self.steps: list[StepRecord] = []
        self.analysis: dict[tuple[object, ...], AnalysisRow] = {}
        self.premises: dict[tuple[object, ...], PremiseRow] = {}
        self.samples: dict[str, tuple[Sample, ...]] = {}
        self.missing: dict[tuple[str, str], int] = {}

    def add(self, path: Path, records: Iterable[JournalRecord]) -> None:
        """Take the records of a file.

        Raises:
            BadInput: if a latency rests on other samples than the file has.
        """
        by_run: dict[str, list[JournalRecord]] = {}
        mine: list[JournalRecord] = []
        for record in records:
            if isinstance(record, RunHeader):  # several in a file that joins the journals of several runs
                mine = by_run.setdefault(record.run_id, [])
            mine.append(record)
            match record:
                case RunHeader():
                    self.headers[record.run_id] = record
                case Row():
                    _put_last(self.rows, record.row_id, record)
                case PhaseRow():
                    _put_last(self.phases, record.key, record)
                case QualityRow():
                    _put_last(self.quality, record.key, record)
                case ClipRow():
                    _put_last(self.clips, (record.run_id, record.clip_id), (path.parent, record))
                case StepRecord():
                    self.steps.append(record)
                case AnalysisRow():
                    _put_last(self.analysis, record.key, record)
                case PremiseRow():
                    _put_last(self.premises, record.key, record)
                case Sample() | Choices():
                    pass
        samples = {run: tuple(usable_samples(each)) for run, each in by_run.items()}
        for run, each in by_run.items():
            last = {record.row_id: record for record in each if isinstance(record, Row)}
            _check_samples(path, last.values(), samples[run])
        self.samples |= samples
        for run, each in by_run.items():
            self._note_missing(path, run, each)

    def _note_missing(self, path: Path, run: str, records: Iterable[JournalRecord]) -> None:
        planned: dict[str, str] = {}
        done = set()
        for record in records:
            if isinstance(record, Choices):
                planned |= record.cells
            elif isinstance(record, Row):
                done.add(record.cell_id)
        left = [mean for cell, mean in planned.items() if cell not in done]
        self.missing |= {(run, mean): count for mean, count in Counter(left).items()}
        if left:
            message = f"{path}: {len(left)} of {len(planned)} cells have no row: this run is not finished"
            warnings.warn(message, Unfinished, stacklevel=4)


def _check_samples(path: Path, rows: Iterable[Row], samples: Sequence[Sample]) -> None:
    """Refuse a row whose samples, or whose time of the baseline, are not those that were taken, where there are any."""
    by_cell: dict[str, list[Sample]] = {}
    for sample in samples:
        by_cell.setdefault(sample.cell_id, []).append(sample)
    for row in rows:
        own = by_round(own_samples(row, by_cell.get(row.cell_id, ()))).values()
        if row.verdict == "ok" and own and sorted(each.cold_ms for each in own) != sorted(row.samples_ms):
            raise BadInput(
                f"{str(path)!r}: the samples_ms of the row {row.row_id!r} ({row.method}) are not the {len(own)} "
                "samples that were taken of its cell"
            )
        dense = [each.cold_ms for name in baseline_ids(row) for each in by_cell.get(name, ())]
        if row.baseline_ms is not None and dense and not _within(row.baseline_ms, dense):
            raise BadInput(
                f"{str(path)!r}: the baseline_ms of the row {row.row_id!r} ({row.method}) is {row.baseline_ms:g}, and "
                f"samples of its dense baseline are from {min(dense):g} to {max(dense):g} ms"
            )


def _within(middle: float, samples: Sequence[float]) -> bool:
    """Whether a median can be that of some of these samples, but for rounding."""
    return min(samples) * (1 - ROUNDING) <= middle <= max(samples) * (1 + ROUNDING)


def _put_last(known: dict[Key, Value], key: Key, value: Value) -> None:
    known.pop(key, None)
    known[key] = value


def load_results(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read latency tables.

    Args:
        path: a journal, a table (``*.parquet``), or a folder that is searched recursively for ``*.jsonl`` and
            ``*.jsonl.gz``, and without any for tables.

    Returns:
        One row per cell of a run, columns as the fields of ``attnbench.results.records.cells.Row``. A cell written
        twice, as by a resumed run, counts once, as last written. ``attrs["environments"]`` maps run_id to the
        environment of the run.

    Warns:
        TornLine: if the last line of a journal is cut off; it is left out.

    Raises:
        BadInput: if nothing is there, or a file is not a journal or of a newer schema.
    """
    from attnbench.results.frames import frame_of

    found = read(path)
    return frame_of(Row, found.rows, found.environments)


def load_phases(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read where the time of cells went, as ``attnbench profile`` wrote it.

    Args:
        path: a journal, or a folder that is searched recursively for ``*.jsonl`` and ``*.jsonl.gz``.

    Returns:
        One row per pass, phase and provenance of a cell of a run, columns as the fields of
        ``attnbench.results.records.cells.PhaseRow``, times in milliseconds; ``row_id`` is that of ``load_results``.
        A phase written twice counts once, as last written. Without profiles the table has no rows.

    Warns:
        TornLine: if the last line of a journal is cut off; it is left out.

    Raises:
        BadInput: if nothing is there, or a file is not a journal or of a newer schema.
    """
    from attnbench.results.frames import frame_of

    return frame_of(PhaseRow, read(path).phases)


def load_quality(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read what methods did to clips, as ``attnbench clips`` wrote it.

    Args:
        path: a journal, or a folder that is searched recursively for ``*.jsonl`` and ``*.jsonl.gz``.

    Returns:
        One row per metric of a clip, columns as the fields of ``attnbench.results.records.clips.QualityRow``. A metric
        that was taken again, as by a resumed run, counts once, as last written. ``attrs["environments"]`` maps run_id
        to the environment of the run. Without clips the table has no rows.

    Warns:
        TornLine: if the last line of a journal is cut off; it is left out.

    Raises:
        BadInput: if nothing is there, or a file is not a journal or of a newer schema.
    """
    from attnbench.results.frames import frame_of

    found = read(path)
    runs = dict.fromkeys(row.run_id for row in found.quality)
    environments = found.environments
    return frame_of(QualityRow, found.quality, {run: environments[run] for run in runs if run in environments})


def load_analysis(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read measures of attention, as ``attnbench analyze`` wrote them.

    Args:
        path: a journal, or a folder that is searched recursively for ``*.jsonl`` and ``*.jsonl.gz``.

    Returns:
        One row per measure of a head, columns as the fields of ``attnbench.results.records.analysis.AnalysisRow``: a
        measure has a value where ``status`` is "ok", otherwise ``reason`` says why not. ``attrs["premises"]`` is the
        list of verdicts, as dictionaries, and ``attrs["environments"]`` maps run_id to the environment of the run.
        Without such runs the table has no rows.

    Warns:
        TornLine: if the last line of a journal is cut off; it is left out.

    Raises:
        BadInput: if nothing is there, or a file is not a journal or of a newer schema.
    """
    from attnbench.results.frames import frame_of

    found = read(path)
    runs = dict.fromkeys([*(row.run_id for row in found.analysis), *(row.run_id for row in found.premises)])
    environments = found.environments
    table = frame_of(AnalysisRow, found.analysis, {run: environments[run] for run in runs if run in environments})
    table.attrs["premises"] = [row.model_dump() for row in found.premises]
    return table


def load_clips(path: str | os.PathLike[str]) -> list[tuple[Path, ClipRow]]:
    """Read which clips runs made: the folder that a clip's files are named from, and its row, as last written.

    Raises:
        BadInput: as ``load_quality``.
    """
    return list(read(path).clips)


def load_steps(path: str | os.PathLike[str]) -> list[StepRecord]:
    """Read whole transformer steps, as ``attnbench step`` wrote them, in order.

    Raises:
        BadInput: as ``load_results``.
    """
    return list(read(path).steps)
