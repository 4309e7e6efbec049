from __future__ import annotations

import csv
import io

from attnbench.report.data.table import Column, Table, csv_text

TABLE = Table("t", "T", (Column("a", "first"), Column("b", "second")), (('x,"y"\nz', 1.5), (None, True), ("=1+1", -2)))


def test_csv_is_read_back_as_it_was() -> None:
    names, *rows = csv.reader(io.StringIO(csv_text(TABLE), newline=""))
    assert names == ["a", "b"]
    assert rows[0] == ['x,"y"\nz', "1.5"]
    assert rows[1] == ["", "True"]


def test_a_formula_in_a_cell_stays_text_and_a_number_stays_a_number() -> None:
    last = list(csv.reader(io.StringIO(csv_text(TABLE), newline="")))[-1]
    assert last == ["'=1+1", "-2"]


def test_records_are_rows_by_name() -> None:
    assert list(TABLE.records())[1] == {"a": None, "b": True}
