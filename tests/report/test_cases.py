from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from attnbench.report.cases import cases_of

Maker = Callable[..., Any]


@pytest.mark.parametrize("seed", range(5))
def test_dense_comes_first_then_methods_by_the_mean_over_their_layers(row_of: Maker, seed: int) -> None:
    rows = [
        row_of("full", latency_ms=100.0, density=1.0),
        row_of("vmoba", layer=0, latency_ms=20.0),
        row_of("vmoba", layer=1, latency_ms=90.0),
        row_of("sta", latency_ms=30.0),
        row_of("moba", verdict="error", reason="x"),
    ]
    random.Random(seed).shuffle(rows)
    (case,) = cases_of(rows)
    assert [(row.method, row.layer) for row in case.rows] == [
        ("full", 0), ("sta", 0), ("vmoba", 0), ("vmoba", 1), ("moba", 0),
    ]  # fmt: skip
    assert [(row.method, row.latency_ms) for row in case.means] == [
        ("full", 100.0), ("sta", 30.0), ("vmoba", 55.0), ("moba", None),
    ]  # fmt: skip


def test_rows_of_different_shapes_or_runs_are_different_cases(row_of: Maker) -> None:
    rows = [row_of(), row_of(grid="9x30x52"), row_of(run_id="other"), row_of(direction="fwdbwd"), row_of("moba")]
    assert [len(case.rows) for case in cases_of(rows)] == [2, 1, 1, 1]


def test_a_cell_that_timed_no_head_stays_with_its_run(row_of: Maker) -> None:
    rows = [row_of("sta", heads_timed=1), row_of("moba", verdict="unsupported", heads_timed=0)]
    (case,) = cases_of(rows)
    assert len(case.rows) == 2
    assert case.heads_timed == "1"


def test_a_label_says_only_what_tells_rows_apart(row_of: Maker) -> None:
    (case,) = cases_of(
        [
            row_of("full"),
            row_of("vmoba", layer=0),
            row_of("vmoba", layer=1),
            row_of("sta", settings={"tile": [6, 8, 8], "window": [3, 3, 3]}),
            row_of("sta", settings={"tile": [6, 8, 8], "window": [5, 5, 5]}, engine="flex"),
        ]
    )
    labels = {case.label(row) for row in case.rows}
    assert labels == {
        "full", "vmoba · layer 0", "vmoba · layer 1", "sta · reference · window 3×3×3", "sta · flex · window 5×5×5",
    }  # fmt: skip
    assert case.label(case.rows[-1], [case.rows[-1]]) == case.rows[-1].method


def test_cases_of_one_grid_say_what_tells_them_apart(row_of: Maker) -> None:
    rows = [
        row_of(heads=12), row_of(heads=1, kv_heads=1), row_of(heads=12, inputs="gaussian"),
        row_of(heads=12, direction="fwdbwd"), row_of(heads=12, grid="9x30x52"),
    ]  # fmt: skip
    told = [case.apart for case in cases_of(rows)]
    assert told == [
        ("12 heads", "forward", "video inputs"), ("1 head", "forward", "video inputs"),
        ("12 heads", "forward", "gaussian inputs"), ("12 heads", "forward and backward", "video inputs"), (),
    ]  # fmt: skip
    assert len(set(told)) == len(rows)


@pytest.mark.parametrize(
    ("field", "values"),
    [("head_dim", (64, 128)), ("batch", (1, 2)), ("dtype", ("float16", "bfloat16")), ("text_tokens", ((0, 0), (8, 0)))],
)
def test_whatever_differs_between_cases_is_told(row_of: Maker, field: str, values: tuple[Any, Any]) -> None:
    one, other = (case.apart for case in cases_of([row_of(**{field: value}) for value in values]))
    assert len(one) == len(other) == 1
    assert one != other
