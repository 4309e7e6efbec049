"""A report as CSV, Parquet, Markdown and LaTeX: the same rows and verdicts, and text from outside stays text."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from attnbench.kernels.errors import BadInput
from attnbench.report.data.page import PageData, page_data
from attnbench.report.data.table import Column, Table
from attnbench.report.formats.flat import chosen_table, csv_bytes, parquet_bytes
from attnbench.report.formats.latex import escaped, latex_text
from attnbench.report.formats.markdown import markdown_text
from attnbench.results.load import Results

HOSTILE = r"a|b_c {x}% $y$ [l](http://e) <b> \cmd #1 & ~^"


@pytest.fixture
def data(table: Results) -> PageData:
    return page_data(table)


@pytest.fixture
def hostile(row_of: Callable[..., Any], table_of: Callable[..., Results]) -> PageData:
    rows = [row_of("full", engine="sdpa", latency_ms=100.0), row_of("sta", engine=HOSTILE), row_of("moba", engine="x")]
    return page_data(table_of(rows))


def test_csv_holds_every_cell_and_what_its_selection_is(data: PageData, table: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_bytes(chosen_table(data)).decode())))
    assert sorted(row["row_id"] for row in rows) == sorted(row.row_id for row in table.rows)
    assert {row["device"] for row in rows} == {"Test CPU"}
    assert {row["direction"] for row in rows} == {"forward"}
    assert "selection" not in rows[0]
    by_id = {row.row_id: row for row in table.rows}
    for row in rows:
        told = by_id[row["row_id"]].latency_ms
        assert (float(row["latency_ms"]) if row["latency_ms"] else None) == told


def test_parquet_holds_the_same_with_types_and_meanings(data: PageData) -> None:
    chosen = chosen_table(data)
    read = pq.read_table(io.BytesIO(parquet_bytes(chosen)))
    assert read.column_names == [column.name for column in chosen.columns]
    assert [tuple(row.values()) for row in read.to_pylist()] == [*chosen.rows]
    assert str(read.schema.field("latency_ms").type) == "double"
    meaning = next(column.meaning for column in chosen.columns if column.name == "density")
    assert read.schema.field("density").metadata[b"meaning"].decode() == meaning


def test_a_column_of_several_types_and_one_without_values_can_be_stored() -> None:
    columns = (Column("mixed", ""), Column("numbers", ""), Column("nothing", ""))
    read = pq.read_table(io.BytesIO(parquet_bytes(Table("t", "T", columns, ((1, 1, None), ("a", 0.5, None))))))
    assert read.to_pydict() == {"mixed": ["1", "a"], "numbers": [1.0, 0.5], "nothing": [None, None]}


def test_a_table_is_chosen_by_name(data: PageData) -> None:
    assert chosen_table(data, "runs").name == "runs"
    assert chosen_table(data).name == "cells"
    with pytest.raises(BadInput, match=r"unknown table 'mean': did you mean 'means'\?"):
        chosen_table(data, "mean")


def cells_of(text: str) -> list[list[str]]:
    """The cells of each line of Markdown tables, split at bars that are not escaped."""
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]


def test_markdown_has_the_verdict_and_the_ranking_of_each_selection(data: PageData, table: Results) -> None:
    text = markdown_text(data)
    (chosen,) = data.selections
    assert chosen.sentence.partition(" [")[0] in text
    assert [cells[0].strip() for cells in cells_of(text)][:6] == ["method", "---", "sta", "vmoba", "full", "moba"]
    assert table.rows[0].run_id in text


@pytest.mark.parametrize("write", [markdown_text, latex_text])
def test_text_from_outside_stays_text(hostile: PageData, write: Callable[[PageData], str]) -> None:
    text = write(hostile)
    assert "<b>" not in text.replace(r"\<b\>", "")
    assert "[l](" not in text
    if write is markdown_text:
        assert len({len(cells) for cells in cells_of(text)[:5]}) == 1, "a bar in a name begins no cell"
        assert r"a\|b\_c" in text
    else:
        assert r"a\textbar{}b\_c \{x\}\% \$y\$" in text


def test_latex_is_balanced_and_has_a_caption_for_each_table(data: PageData) -> None:
    text = latex_text(data)
    plain = re.sub(r"\\.", "", text)
    assert plain.count("{") == plain.count("}")
    assert text.count(r"\begin{table") == text.count(r"\end{table") == text.count(r"\caption{") == len(data.selections)
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    columns = text.partition(r"\begin{tabular}{")[2].partition("}")[0]
    assert {line.count(" & ") + 1 for line in body} == {len(columns)}
    assert escaped("1 × 2\x1b[0m") == r"1 $\times$ 2{[}0m"


@pytest.mark.parametrize("write", [markdown_text, latex_text])
def test_words_beside_verdicts_are_explained_with_the_table(
    row_of: Callable[..., Any], table_of: Callable[..., Results], write: Callable[[PageData], str]
) -> None:
    plain = [row_of("full", engine="sdpa", flags=""), row_of("sta", flags="cpu-bound")]
    text = write(page_data(table_of(plain)))
    assert "Beside verdicts: cpu: the CPU could not enqueue fast enough." in text
    assert "Beside verdicts" not in write(page_data(table_of(plain[:1])))
