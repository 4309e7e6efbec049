"""Records survive the way through a data frame, whatever pandas makes of what is missing."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from attnbench.kernels.errors import BadInput
from attnbench.results.frames import frame_of, plain_rows, records_of
from attnbench.results.load import Results, read
from attnbench.results.records.cells import PhaseRow, Row
from attnbench.results.records.clips import QualityRow

H100 = Path(__file__).resolve().parents[2] / "results" / "h100"


@pytest.fixture(scope="module")
def profile() -> Results:
    return read(H100 / "profiles" / "480p-fwd.jsonl.gz")


def test_records_survive_the_data_frame(profile: Results) -> None:
    assert records_of(Row, frame_of(Row, profile.rows)) == list(profile.rows)
    assert records_of(PhaseRow, frame_of(PhaseRow, profile.phases)) == list(profile.phases)
    metrics = read(H100 / "clips" / "vmoba-topk").quality[:500]
    assert records_of(QualityRow, frame_of(QualityRow, metrics)) == list(metrics)


def test_rows_survive_json_and_columns_that_are_not_of_the_schema(profile: Results) -> None:
    table = pd.DataFrame(
        json.load(StringIO(frame_of(Row, profile.rows).to_json(orient="records", double_precision=15)))
    )
    again = records_of(Row, table.assign(note="mine"))
    assert [row.row_id for row in again] == [row.row_id for row in profile.rows]
    for row, other in zip(again, profile.rows, strict=True):
        assert row.latency_ms == pytest.approx(other.latency_ms, rel=1e-12)
        assert (row.step, row.text_tokens, row.reason) == (other.step, other.text_tokens, other.reason)


def test_a_table_of_no_records_has_the_columns(profile: Results) -> None:
    assert records_of(Row, frame_of(Row, [])) == []
    assert list(frame_of(PhaseRow, []).columns)[:5] == ["row_id", "run_id", "cell_id", "pass", "phase"]


@pytest.mark.parametrize(("column", "value"), [("density", 1.5), ("latency_ms", float("inf")), ("cell_id", "other")])
def test_a_row_that_breaks_the_schema_is_named(profile: Results, column: str, value: object) -> None:
    table = frame_of(Row, profile.rows)
    table.loc[1, column] = value
    with pytest.raises(BadInput, match=rf"row 1 of the table is not valid: .*{column}"):
        records_of(Row, table)


def test_whatever_pandas_calls_missing_is_none() -> None:
    missing = [None, np.nan, pd.NA, pd.NaT, float("nan")]
    table = pd.DataFrame({"a": pd.Series(missing, dtype=object), "b": [[1, 2], (3,), np.arange(2), 4, "x"]})
    assert [row["a"] for row in plain_rows(table)] == [None] * 5
    assert [row["b"] for row in plain_rows(table)] == [[1, 2], [3], [0, 1], 4, "x"]
