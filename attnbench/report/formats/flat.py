"""Tables of a report as files of their own: CSV and Parquet."""

from __future__ import annotations

import io
import json

from attnbench.kernels.errors import unknown_name
from attnbench.report.data.page import PageData
from attnbench.report.data.table import Column, Table, Value, csv_text

_SELECTION = "selection"
_FACETS = {
    "device": "name of the GPU or CPU", "shape": "tokens and heads", "direction": "forward, or forward and backward",
    "dtype": "type of q, k and v", "inputs": "where q, k and v come from", "model": "whose heads and layers they are",
}  # fmt: skip


def chosen_table(data: PageData, name: str | None = None) -> Table:
    """Return a table of a report that stands alone: what a selection stands for is written out in columns.

    Args:
        data: of the report.
        name: of the table; None takes that of all cells, and without cells the first one.

    Raises:
        BadInput: if there is no table of that name.
    """
    known = {table.name: table for table in data.tables}
    if name is not None and name not in known:
        raise unknown_name("table", name, known)
    return _alone(data, known[name] if name is not None else known.get("cells") or data.tables[0])


def csv_bytes(table: Table) -> bytes:
    """Return a table as CSV in UTF-8."""
    return csv_text(table).encode()


def parquet_bytes(table: Table) -> bytes:
    """Return a table as a Parquet file; what a column means is in the metadata of its field."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays, fields = [], []
    for place, column in enumerate(table.columns):
        array = pa.array(_of_one_type([row[place] for row in table.rows]))
        told = {"meaning": column.meaning, "unit": column.unit}
        arrays.append(array)
        fields.append(pa.field(column.name, array.type, metadata={name: text for name, text in told.items() if text}))
    schema = pa.schema(fields, metadata={"title": table.title, "attnbench": json.dumps({"table": table.name})})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), buffer)
    return buffer.getvalue()


def _of_one_type(values: list[Value]) -> list[Value]:
    """Return the values of a column as Arrow can hold them: numbers as floats where some are, and else as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def _alone(data: PageData, table: Table) -> Table:
    names = [column.name for column in table.columns]
    if _SELECTION not in names:
        return table
    place = names.index(_SELECTION)
    facets = [name for name in _FACETS if name not in names]
    columns = [Column(name, _FACETS[name]) for name in facets]
    chosen = {each.place: [getattr(each, name) for name in facets] for each in data.selections}
    return Table(
        table.name,
        table.title,
        (*columns, *(column for column in table.columns if column.name != _SELECTION)),
        tuple((*chosen[int(row[place] or 0)], *row[:place], *row[place + 1 :]) for row in table.rows),
    )
