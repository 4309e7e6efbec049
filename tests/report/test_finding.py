from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from attnbench.report.cases import cases_of
from attnbench.report.finding import finding, speedup_range
from attnbench.results.records.cells import Row

Maker = Callable[..., Any]


def told(*rows: Row) -> str:
    (case,) = cases_of(rows)
    return " ".join(finding(case))


@pytest.fixture
def dense(row_of: Maker) -> Row:
    return row_of("full", engine="sdpa", latency_ms=100.0, density=1.0)


def test_the_fastest_method_is_named_with_its_speedup_and_translation(row_of: Maker, dense: Row) -> None:
    text = told(dense, row_of("sta", latency_ms=40.0, density=0.2), row_of("moba", latency_ms=50.0, density=0.1))
    assert text.startswith("Fastest sparse method here: sta on engine reference, 2.50×")
    assert "density 0.200" in text
    assert "50% of the 5.00×" in text
    assert "moba" not in text


def test_slower_than_dense_is_said_plainly(row_of: Maker, dense: Row) -> None:
    text = told(dense, row_of("sta", latency_ms=250.0))
    assert text.startswith("No sparse method is faster than the dense baseline here; the nearest is sta")
    assert "0.400×" in text
    assert "Fastest" not in text


def test_overlapping_intervals_are_no_win(row_of: Maker, dense: Row) -> None:
    text = told(dense, row_of("sta", latency_ms=99.0))
    assert "clearly" in text
    assert "overlap" in text


def test_more_than_the_density_allows_is_not_sold_as_a_share(row_of: Maker, dense: Row) -> None:
    text = told(dense, row_of("sta", latency_ms=40.0, density=0.5))
    assert "more than the 2.00×" in text
    assert "125%" not in text


def test_the_reference_engine_is_not_taken_for_the_method(row_of: Maker, dense: Row) -> None:
    assert "says little about the method" in told(dense, row_of("sta", engine="reference"))
    assert "reference" not in told(dense, row_of("sta", engine="triton"))


def test_heads_that_were_not_timed_are_stated(row_of: Maker, dense: Row) -> None:
    assert "1 of 12 heads timed" in told(row_of("sta", heads_timed=1))
    assert "heads timed" not in told(dense, row_of("sta", heads_timed=12))


def test_cells_without_latency_are_counted_with_their_verdict(row_of: Maker, dense: Row) -> None:
    text = told(dense, row_of("sta"), row_of("moba", verdict="incorrect"), row_of("vmoba", verdict="oom"))
    assert "2 of 4 cells have no latency: moba (incorrect), vmoba (oom)." in text


def test_nothing_timed_only_dense_and_no_baseline(row_of: Maker, dense: Row) -> None:
    assert told(row_of("moba", verdict="oom")) == "No cell of this run has a latency: the table says why."
    assert told(dense).startswith("Only dense attention was timed here: full on engine sdpa takes 100 ms")
    alone = row_of("sta", baseline=None, baseline_ms=None, speedup=None, translation=None)
    assert "No dense baseline was measured" in told(alone)


def test_the_speedup_range_pairs_the_extremes(row_of: Maker, dense: Row) -> None:
    row = row_of("sta", latency_ms=50.0, latency_lo_ms=40.0, latency_hi_ms=60.0, samples_ms=[40.0, 50.0, 60.0])
    (case,) = cases_of([dense, row])
    low, high = speedup_range(case, row)
    assert low == pytest.approx(98.0 / 60.0)
    assert high == pytest.approx(103.0 / 40.0)


def test_the_fastest_method_is_named_and_not_the_fastest_layer(row_of: Callable[..., Row]) -> None:
    layers = [
        row_of("vmoba", layer=layer, latency_ms=ms, layers_alike=10) for layer, ms in enumerate([20.0, 35.0, 38.0])
    ]
    (case,) = cases_of([row_of("full", latency_ms=100.0, density=1.0), *layers, row_of("sta", latency_ms=30.0)])
    assert finding(case)[0].startswith("Fastest sparse method here: sta on engine reference, 3.33×")
    (case,) = cases_of([row_of("full", latency_ms=100.0, density=1.0), *layers])
    words = "Fastest sparse method here: vmoba on engine reference, mean over layers 0×10, 1×10, 2×10, 3.23×"
    assert finding(case)[0].startswith(words)
