"""Phases in a report: bars, their parts, what is not to be trusted, traces, and the waterfall."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attnbench.report.cases import cases_of
from attnbench.report.data.figure import Figure
from attnbench.report.data.page import page_data
from attnbench.report.data.tables import phases_table
from attnbench.report.html.page import make_report
from attnbench.report.waterfalls import waterfall_of
from attnbench.results.load import Results
from attnbench.results.records.cells import PhaseRow, Row


def phase(row: Row, name: str, ms: float, **changes: Any) -> PhaseRow:
    fields = {
        "row_id": row.row_id, "run_id": row.run_id, "cell_id": row.cell_id, "pass": "fwd", "phase": name,
        "time_ms": ms, "time_lo_ms": 0.9 * ms, "time_hi_ms": 1.1 * ms, "provenance": "measured", "engine": row.engine,
        "kernels": 2,
    }  # fmt: skip
    return PhaseRow.model_validate(fields | changes)


FLOPS = {"flops_algorithmic": 900, "flops_executed": 1000}


@pytest.fixture
def table(table_of: Any, row_of: Any) -> Results:
    rows = [row_of("full", density=1.0, latency_ms=100.0, engine="sdpa"), row_of("sta", **FLOPS)]
    made: Results = table_of(rows)
    return made


def sparse_row(table: Results) -> Row:
    return cases_of(table.rows)[0].sparse[0]


def figures(table: Results, phases: list[PhaseRow], section: str) -> list[Figure]:
    data = page_data(replace(table, phases=tuple(phases)))
    return [figure for figure in data.figures if figure.section == section]


def test_phases_stand_in_the_order_of_a_call_end_to_end(table: Results) -> None:
    row = sparse_row(table)
    phases = [phase(row, "pool", 1.0), phase(row, "attend", 8.0), phase(row, "gap", 1.0, kernels=0)]
    (made,) = figures(table, phases, "phases")
    assert [(bar.line, bar.part, bar.start, bar.size) for bar in made.bars] == [
        ("sta", "pool", 0.0, 1.0), ("sta", "attend", 1.0, 8.0), ("sta", "gap", 9.0, 1.0),
    ]  # fmt: skip


def test_parts_and_modelled_times_are_a_figure_of_their_own(table: Results) -> None:
    row = sparse_row(table)
    parts = [
        phase(row, "qk", 3.0, parent="attend", provenance="ablated"),
        phase(row, "qk", 5.0, parent="attend", provenance="modelled"),
    ]
    whole, inside = figures(table, [phase(row, "attend", 8.0), *parts], "phases")
    assert [bar.part for bar in whole.bars] == ["attend"]
    assert [(bar.line, bar.provenance, bar.size) for bar in inside.bars] == [
        ("sta (ablated)", "ablated", 3.0), ("sta (modelled)", "modelled", 5.0),
    ]  # fmt: skip


def test_forward_and_backward_are_bars_of_their_own(table: Results) -> None:
    row = sparse_row(table)
    (made,) = figures(table, [phase(row, "attend", 8.0), phase(row, "attend", 16.0, **{"pass": "bwd"})], "phases")
    assert [(bar.line, bar.start, bar.size) for bar in made.bars] == [
        ("sta, forward", 0.0, 8.0), ("sta, backward", 0.0, 16.0),
    ]  # fmt: skip


def test_without_a_profile_there_is_no_such_figure(table: Results) -> None:
    for section in ("phases", "waterfall", "roofline"):
        assert figures(table, [], section) == []


def test_the_page_shows_complaints_traces_and_the_waterfall(table: Results) -> None:
    row = sparse_row(table)
    phases = (phase(row, "attend", 8.0, complaint="the phases add up to 9 ms"),)
    page = make_report(replace(table, phases=phases), {row.cell_id: "../traces/a b.json.gz"}).html
    assert "not to be trusted: the phases add up to 9 ms" in page
    assert '<a href="../traces/a b.json.gz" download>' in page
    assert 'id="waterfall"' in page
    assert "Perfetto" in page
    assert "Perfetto" not in make_report(replace(table, phases=phases)).html  # there is no trace to open


def test_the_waterfall_adds_both_passes_and_leaves_selection_out_of_the_padding(table: Results) -> None:
    row = sparse_row(table)
    known = {
        "latency_ms": 30.0, "baseline_ms": 100.0, "density": 0.2, "flops_algorithmic": 900, "flops_executed": 1100,
        "flops_selection": 100,
    }  # fmt: skip
    row = row.model_copy(update=known)
    both = [phase(row, "attend", 8.0), phase(row, "attend", 16.0, **{"pass": "bwd"})]
    waterfall = waterfall_of(row, [PhaseRow.model_validate(one) for one in both])
    assert waterfall is not None
    bars = {bar.name: bar.span.ms for bar in waterfall.bars}
    assert bars["padding"] == pytest.approx(24.0 * 0.1)
    assert bars["kernel inefficiency"] == pytest.approx(24.0 * 0.9 - 20.0)
    assert waterfall.unexplained.ms == pytest.approx(6.0)


def test_dense_rows_and_rows_without_a_baseline_have_no_waterfall(table: Results) -> None:
    row = sparse_row(table)
    phases = [PhaseRow.model_validate(phase(row, "attend", 8.0))]
    assert waterfall_of(row.model_copy(update={"density": 1.0}), phases) is None
    assert waterfall_of(row.model_copy(update={"baseline_ms": None}), phases) is None
    assert waterfall_of(row, []) is None


def test_what_a_difference_of_builds_adds_has_no_rate(table: Results) -> None:
    row = sparse_row(table)
    rates = {"flops": 2e12, "tflops": 1315.0, "mfu": 1.33, "mfu_probe": 1.65, "parent": "attend"}
    rows = [PhaseRow.model_validate(phase(row, name, 1.5, provenance="ablated", **rates)) for name in ("qk", "av")]
    qk, av = phases_table(rows).records()
    assert (qk["flops"], qk["tflops"], qk["mfu"], qk["mfu_probe"]) == (2e12, 1315.0, 1.33, 1.65)
    assert (av["flops"], av["tflops"], av["mfu"], av["mfu_probe"]) == (2e12, None, None, None)


@pytest.mark.parametrize("executed", [0, 5, 3])
def test_counts_that_leave_the_kernel_nothing_to_do_make_no_waterfall(table: Results, executed: int) -> None:
    known = {"flops_executed": executed, "flops_selection": 5, "device": "NVIDIA H100 80GB HBM3"}
    row = sparse_row(table).model_copy(update=known)
    attend = PhaseRow.model_validate(phase(row, "attend", 5.0))
    assert waterfall_of(row, [attend]) is None
