"""Tables of a report as files of their own: CSV and Parquet."""

from __future__ import annotations

import io
import json

from attnbench.kernels.errors import unknown_name
from attnbench.report.data.page import PageData
from attnbench.report.data.table import Column, Record, Table, Value, csv_text

_SELECTION = "selection"
_FACETS = {
    "device": "name of the GPU or CPU", "shape": "tokens and heads", "direction": "forward, or forward and backward",
    "dtype": "type of q, k and v", "inputs": "where q, k and v come from", "model": "whose heads and layers they are",
}  # fmt: skip
_ROW = {
    "method": "name of the method", "settings_given": "canonical JSON of the settings that were asked for",
    "layer": "transformer layer",
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
    return alone(data, known[name] if name is not None else known.get("cells") or data.tables[0])


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


def alone(data: PageData, table: Table) -> Table:
    """Return a table that stands alone: what its rows were measured on is written out in columns before the others.

    A row's selection is in its own column, or it is that of the row that it names by row_id, whose method, settings and
    layer are written out too. A table that only names runs gets their device. ``identified`` of the page's script does
    the same.
    """
    names = [column.name for column in table.columns]
    if _SELECTION in names:
        found, words = _selections(data), _FACETS
        key = names.index(_SELECTION)
    elif "row_id" in names:
        found, words = _rows(data), {**_FACETS, **_ROW}
        key = names.index("row_id")
    elif "run_id" in names:
        found, words = _runs(data), {"device": _FACETS["device"]}
        key = names.index("run_id")
    else:
        return table
    if not found:
        return table
    added = [name for name in words if name not in names]
    kept = [place for place, name in enumerate(names) if name != _SELECTION]
    rows = []
    for row in table.rows:
        known = found.get(row[key], {})
        rows.append((*(known.get(name) for name in added), *(row[place] for place in kept)))
    columns = (*(Column(name, words[name]) for name in added), *(table.columns[place] for place in kept))
    return Table(table.name, table.title, columns, tuple(rows))


def _selections(data: PageData) -> dict[Value, Record]:
    return {each.place: {name: getattr(each, name) for name in _FACETS} for each in data.selections}


def _rows(data: PageData) -> dict[Value, Record]:
    cells, facets = data.table("cells"), _selections(data)
    records = () if cells is None else cells.records()
    return {each["row_id"]: {**each, **facets[each[_SELECTION]]} for each in records}


def _runs(data: PageData) -> dict[Value, Record]:
    runs = data.table("runs")
    return {} if runs is None else {each["run_id"]: each for each in runs.records()}
