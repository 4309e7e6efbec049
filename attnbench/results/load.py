"""Read results back, as data frames and as records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from attnbench.kernels.errors import BadInput
from attnbench.results.journal import TRAINING_LOG, read_journal
from attnbench.results.records.cells import PhaseRow, Row, RunHeader
from attnbench.results.records.clips import ClipRow, QualityRow, still_true
from attnbench.results.records.steps import StepRecord

if TYPE_CHECKING:
    import pandas as pd


def find_journals(path: Path) -> list[Path]:
    """Return the journals, gzipped or not, that a file or folder, read recursively but for training logs, stands for.

    Raises:
        BadInput: if there is none.
    """
    if os.path.isfile(path):
        return [path]
    if not os.path.exists(path):  # False also for names that the system refuses
        raise BadInput(
            f"no such file or folder: {str(path)!r}; it must be a results journal or a folder that holds some"
        )
    every = [*path.rglob("*.jsonl"), *path.rglob("*.jsonl.gz")]
    found = sorted(each for each in every if each.name.removesuffix(".gz") != TRAINING_LOG)
    if not found:
        raise BadInput(f"no results in {str(path)!r}: it holds no .jsonl journal")
    return found


def load_results(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read latency tables.

    Args:
        path: a journal, or a folder that is searched recursively for ``*.jsonl`` and ``*.jsonl.gz``.

    Returns:
        One row per cell of a run, columns as the fields of ``attnbench.results.records.cells.Row``. A cell written
        twice, as by a resumed run, counts once, as last written. ``attrs["environments"]`` maps run_id to the
        environment of the run.

    Warns:
        TornLine: if a journal's last line is cut off; it is left out.

    Raises:
        BadInput: if nothing is there, or a file is not a journal or of a newer schema.
    """
    import pandas as pd

    rows: dict[str, dict[str, Any]] = {}
    environments: dict[str, dict[str, Any]] = {}
    for journal in find_journals(Path(path)):
        for record in read_journal(journal):
            if isinstance(record, RunHeader):
                environments[record.run_id] = record.environment.model_dump()
            elif isinstance(record, Row):
                rows.pop(record.row_id, None)
                rows[record.row_id] = record.model_dump()
    frame = pd.DataFrame(list(rows.values()), columns=list(Row.model_fields))
    frame.attrs["environments"] = environments
    return frame


def load_phases(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read where the time of cells went, as ``attnbench profile`` wrote it.

    Args:
        path: a journal, or a folder that is searched recursively for ``*.jsonl`` and ``*.jsonl.gz``.

    Returns:
        One row per pass, phase and provenance of a cell of a run, columns as the fields of
        ``attnbench.results.records.cells.PhaseRow``, times in milliseconds; ``row_id`` is that of ``load_results``.
        A phase written twice counts once, as last written. Without profiles the table has no rows.

    Warns:
        TornLine: if a journal's last line is cut off; it is left out.

    Raises:
        BadInput: if nothing is there, or a file is not a journal or of a newer schema.
    """
    import pandas as pd

    rows: dict[tuple[str | None, ...], dict[str, Any]] = {}
    for journal in find_journals(Path(path)):
        for record in read_journal(journal):
            if isinstance(record, PhaseRow):
                key = record.row_id, record.pass_, record.phase, record.parent, record.provenance, record.engine
                rows.pop(key, None)
                rows[key] = record.model_dump(by_alias=True)
    return pd.DataFrame(
        list(rows.values()), columns=[field.alias or name for name, field in PhaseRow.model_fields.items()]
    )


def load_quality(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read what methods did to clips, as ``attnbench clips`` wrote it.

    Args:
        path: a journal, or a folder that is searched recursively for ``*.jsonl`` and ``*.jsonl.gz``.

    Returns:
        One row per metric of a clip, columns as the fields of ``attnbench.results.records.clips.QualityRow``. A metric
        that was taken again, as by a resumed run, counts once, as last written. ``attrs["environments"]`` maps run_id
        to the environment of the run. Without clips the table has no rows.

    Warns:
        TornLine: if a journal's last line is cut off; it is left out.

    Raises:
        BadInput: if nothing is there, or a file is not a journal or of a newer schema.
    """
    import pandas as pd

    rows: dict[tuple[object, ...], QualityRow] = {}
    environments: dict[str, dict[str, Any]] = {}
    for journal in find_journals(Path(path)):
        for record in read_journal(journal):
            if isinstance(record, RunHeader):
                environments[record.run_id] = record.environment.model_dump()
            elif isinstance(record, QualityRow):
                rows.pop(record.key, None)
                rows[record.key] = record
    frame = pd.DataFrame([row.model_dump() for row in still_true(rows.values())], columns=list(QualityRow.model_fields))
    frame.attrs["environments"] = {run: environments[run] for run in frame["run_id"].unique() if run in environments}
    return frame


def load_clips(path: str | os.PathLike[str]) -> list[tuple[Path, ClipRow]]:
    """Read which clips runs made: the folder that a clip's files are named from, and its row, as last written.

    Raises:
        BadInput: as ``load_quality``.
    """
    found: dict[tuple[str, str], tuple[Path, ClipRow]] = {}
    for journal in find_journals(Path(path)):
        for record in read_journal(journal):
            if isinstance(record, ClipRow):
                found.pop((record.run_id, record.clip_id), None)
                found[record.run_id, record.clip_id] = (journal.parent, record)
    return list(found.values())


def load_steps(path: str | os.PathLike[str]) -> list[StepRecord]:
    """Read whole transformer steps, as ``attnbench step`` wrote them, in order.

    Raises:
        BadInput: as ``load_results``.
    """
    records = (record for journal in find_journals(Path(path)) for record in read_journal(journal))
    return [record for record in records if isinstance(record, StepRecord)]


def find_traces(path: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the Chrome traces of the cells below a folder, or beside a journal, by cell_id."""
    root = Path(path)
    folder = root if root.is_dir() else root.parent
    return {trace.name.removesuffix(".json.gz"): trace for trace in sorted(folder.rglob("traces/*.json.gz"))}


def read_quality(table: pd.DataFrame | None) -> list[QualityRow]:
    """Return the rows of a table as ``load_quality`` returns it.

    Raises:
        BadInput: if a row does not fit the schema.
    """
    rows = []
    for place, record in enumerate([] if table is None else table.to_dict("records")):
        fields = {str(name): value for name, value in record.items() if isinstance(value, list) or value == value}
        try:
            rows.append(QualityRow.model_validate({name: value for name, value in fields.items() if value is not None}))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the row"
            raise BadInput(f"row {place} of the metrics is not valid: {where}: {first['msg']}") from error
    return rows


def read_phases(table: pd.DataFrame | None) -> dict[str, list[PhaseRow]]:
    """Return the phases of a table as ``load_phases`` returns it, by row_id."""
    found: dict[str, list[PhaseRow]] = {}
    for record in [] if table is None else table.to_dict("records"):
        fields = {name: value for name, value in record.items() if value is not None and value == value}
        row = PhaseRow.model_validate(fields)
        found.setdefault(row.row_id, []).append(row)
    return found


def read_rows(table: pd.DataFrame) -> list[Row]:
    """Return the rows of a results table, checked against the schema; other columns are left out.

    Raises:
        BadInput: if the table is empty, or a row does not fit the schema.
    """
    rows = []
    for number, record in enumerate(table.to_dict("records")):
        fields = {name: plain(record[name]) for name in Row.model_fields if name in record}
        present = {name: value for name, value in fields.items() if value is not None}
        try:
            rows.append(Row.model_validate(present))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the row"
            raise BadInput(f"row {number} of the results is not valid: {where}: {first['msg']}") from error
    if not rows:
        raise BadInput("the results hold no rows: run `attnbench run` first, or name another file or folder")
    return rows


def plain(value: Any) -> Any:
    """Return a plain Python value; what pandas uses for "missing" becomes None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return list(value)
    return None if value is None or value != value or str(value) in ("NaT", "<NA>") else value
