"""Latency tables as Parquet, with every sample and all columns but one, and as CSV without samples, for diffs."""

from __future__ import annotations

import base64
import csv
import errno
import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from attnbench.inputs.files import MOST_BYTES, read_file
from attnbench.kernels.errors import BadInput
from attnbench.results.journal import JournalRecord, validated
from attnbench.results.parquet import NotWhole, TooLarge, contents
from attnbench.results.records.cells import Record, Row, RunHeader, Sample
from attnbench.results.records.faults import first_fault

TABLE = "table.parquet"
_METADATA = b"attnbench"
_PACKED = b"zlib:"
"""What metadata begin with that are JSON, packed by zlib and written in base64. Older tables have JSON as it is."""

_SAMPLES = "samples"
LEFT_OUT = "kept_by_frame"
"""The column of rows that tables lack: it compares nothing, and is as large as all others together."""

_COMPACT: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": False,
    "write_statistics": False,
}
"""For small files in git: without dictionaries zstd makes a quarter less of them. Nothing here reads statistics."""

_MOST_VALUES = 2**24
"""Values of a table that is read: 500 times those of all committed tables."""


class Accepted(Record):
    """A cell that would have failed the gate, and was admitted by name when the baseline was moved."""

    run_id: str = Field(description="the newest run of the table that became the baseline")
    cell_id: str = Field(description="digest of what was asked, without the layer")
    method: str = Field(description="name of the method")
    settings_given: str | None = Field(description="canonical JSON of the settings that were asked for")
    layers: str = Field(description="each kind's layer, and how many of the model's layers it stands for")
    change: str = Field(description="what became of the cell, as slower or only in A")
    reason: str = Field(default="", description="why, in a sentence")
    attributes: list[str] = Field(default_factory=list, description="what else differs, as the engine")
    a_ms: float | None = Field(default=None, description="median latency in the baseline before")
    b_ms: float | None = Field(default=None, description="median latency in the baseline after")
    ratio: float | None = Field(default=None, description="the figure that was judged: above 1 is slower than before")
    lo: float | None = Field(default=None, description="lower end of its 95 % interval")
    hi: float | None = Field(default=None, description="upper end of its 95 % interval; empty if it is open")


def table_bytes(
    headers: Iterable[RunHeader],
    rows: Sequence[Row],
    samples: Mapping[str, Sequence[Sample]],
    accepted: Iterable[Accepted] = (),
) -> bytes:
    """Return a latency table as the content of a Parquet file that ``read_table`` reads.

    It has a row per cell of a run, the fields of ``Row`` but ``LEFT_OUT`` as columns, and a column ``samples`` of
    lists: the samples of the cell, and those that were taken beside it in its own process. Runs and what was accepted
    are in the metadata.

    Args:
        headers: of runs; those that have no rows are left out.
        rows: at least one.
        samples: of each run, by run_id.

    Raises:
        BadInput: if a number does not fit into 64 bits.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    taken = _by_row(rows, samples)
    lines = [{**row.model_dump(mode="json", exclude={LEFT_OUT}), _SAMPLES: taken[row.row_id]} for row in rows]
    runs = {row.run_id for row in rows}
    about = {
        "runs": [header.model_dump(mode="json") for header in headers if header.run_id in runs],
        "accepted": [each.model_dump(mode="json") for each in accepted],
    }
    try:
        table = pa.Table.from_pylist(lines)
    except (pa.ArrowException, OverflowError) as error:
        raise BadInput(f"these results cannot be written as a table: {error}") from error
    file = io.BytesIO()
    with pq.ParquetWriter(file, table.schema, write_page_checksum=True, **_COMPACT) as writer:
        writer.write_table(table)
        # In the file's metadata alone: those of the schema are written a second time, in base64.
        writer.add_key_value_metadata({_METADATA: _packed(json.dumps(about, allow_nan=False))})
    return file.getvalue()


def _packed(text: str) -> bytes:
    # The metadata of a Parquet file are not compressed, and those of runs repeat most of what the others say.
    return _PACKED + base64.b64encode(zlib.compress(text.encode(), 9))


def _unpacked(value: bytes) -> bytes:
    """Return the JSON that metadata hold.

    Raises:
        OSError: if it is too large to be read.
        ValueError, zlib.error: if it is not whole.
    """
    if not value.startswith(_PACKED):
        return value
    reader = zlib.decompressobj()
    text = reader.decompress(base64.b64decode(value.removeprefix(_PACKED), validate=True), MOST_BYTES)
    if reader.unconsumed_tail:
        raise OSError(errno.EFBIG, f"what it says of its runs is more than {MOST_BYTES // 2**20} MiB")
    if not reader.eof:
        raise ValueError("the packed metadata are not whole")
    return text


def csv_bytes(
    model: type[Record], records: Iterable[Record], leave_out: Iterable[str] = (), *, digits: int = 17
) -> bytes:
    """Return records as CSV with the fields of ``model`` as columns; lists are JSON, and what is missing is empty.

    Numbers with a fraction have up to ``digits`` significant digits. Seventeen are exact.
    """
    columns = [name for name in model.model_fields if name not in set(leave_out)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        values = record.model_dump(mode="json")
        writer.writerow([_cell(values[name], digits) for name in columns])
    return text.getvalue().encode()


def _cell(value: object, digits: int) -> object:
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    return json.dumps(value) if isinstance(value, list) else value


def read_table(path: Path) -> list[JournalRecord]:
    """Return the records of a table: of each run the first line, then rows and samples.

    Raises:
        BadInput: if the file cannot be read, is no table of attnbench, or is of a newer schema.
    """
    lines, about = _opened(path)
    headers: dict[str, list[JournalRecord]] = {}
    for number, fields in enumerate(_lists(path, about, "runs"), 1):
        header = validated(path, f"run {number}", {**fields, "kind": "run"})
        assert isinstance(header, RunHeader)
        headers[header.run_id] = [header]
    for number, fields in enumerate(lines, 1):
        samples = fields.pop(_SAMPLES, None) or []
        row = validated(path, f"row {number}", {**fields, "kind": "row"})
        assert isinstance(row, Row)
        records = headers.setdefault(row.run_id, [])
        records.append(row)
        for sample in samples:
            records.append(validated(path, f"row {number}", {**_mapping(path, sample), "kind": "sample"}))
    return [record for records in headers.values() for record in records]


def read_accepted(path: Path) -> list[Accepted]:
    """Return what was accepted whenever a table was moved, oldest first.

    Raises:
        BadInput: as ``read_table``.
    """
    records = _lists(path, _opened(path, decode=False)[1], "accepted")
    try:
        return [Accepted.model_validate(each) for each in records]
    except ValidationError as error:
        raise BadInput(f"{str(path)!r}: what was accepted is not a valid record: {first_fault(error)}") from error


def _by_row(rows: Sequence[Row], samples: Mapping[str, Sequence[Sample]]) -> dict[str, list[dict[str, Any]]]:
    """Return the samples of runs by row_id. Those of cells that have no row go to the first row of their run."""
    found: dict[str, list[dict[str, Any]]] = {row.row_id: [] for row in rows}
    first = {row.run_id: row.row_id for row in reversed(rows)}
    known = {(row.run_id, row.cell_id): row.row_id for row in rows}
    for run in first:
        for sample in samples.get(run, ()):
            row_id = known.get((run, sample.group or sample.cell_id), first[run])
            found[row_id].append(sample.model_dump(mode="json"))
    return found


def _opened(path: Path, *, decode: bool = True) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the rows of a table and its metadata. It is read only if it says that it is of a size that can be.

    Without ``decode`` there are no rows: metadata alone needs none.
    """
    import pyarrow as pa

    try:
        lines, metadata = contents(read_file(path), _MOST_VALUES, MOST_BYTES, decode=decode)
        about = json.loads(_unpacked((metadata or {})[_METADATA]))
    except KeyError as error:
        raise BadInput(f"{str(path)!r} is no table of attnbench: it says nothing of its runs") from error
    except TooLarge as error:
        raise BadInput(f"cannot read {str(path)!r} as a table: it holds more than {_MOST_VALUES:,} values") from error
    except (NotWhole, OSError, ValueError, zlib.error, RecursionError, pa.ArrowException) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not a whole Parquet file"
        raise BadInput(f"cannot read {str(path)!r} as a table: {why}") from error
    return lines, _mapping(path, about)


def _lists(path: Path, about: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    values = about.get(name, [])
    return [_mapping(path, each) for each in (values if isinstance(values, list) else [None])]


def _mapping(path: Path, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{str(path)!r} is no table of attnbench: {str(value)[:60]!r} is not a record")
    return value
