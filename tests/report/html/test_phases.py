"""Phases on the report's page: the table, what is not to be trusted, traces, and the waterfall."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from attnbench.report.cases import cases_of
from attnbench.report.html.page import make_report
from attnbench.report.html.phase_details import phase_details
from attnbench.report.html.phases import phase_table
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


def test_phases_stand_in_the_order_of_a_call_with_their_shares(table: Results) -> None:
    row = sparse_row(table)
    phases = [phase(row, "pool", 1.0), phase(row, "attend", 8.0), phase(row, "gap", 1.0, kernels=0)]
    made = phase_table(cases_of(table.rows)[0], {row.row_id: phases}, {row.cell_id: "traces/x.json.gz"})
    assert made is not None
    assert made.phases == ("pool", "attend", "gap")
    (line,) = made.lines
    assert line.cells == (("1.00", "10% · 2 kernels"), ("8.00", "80% · 2 kernels"), ("1.00", "10%"))
    assert (line.total, line.trace, line.pass_) == ("10.0", "traces/x.json.gz", "")


def test_parts_and_modelled_times_do_not_add_to_the_sum(table: Results) -> None:
    row = sparse_row(table)
    parts = [phase(row, "qk", 3.0, parent="attend"), phase(row, "attend", 5.0, provenance="modelled")]
    phases = [phase(row, "attend", 8.0), *parts]
    made = phase_table(cases_of(table.rows)[0], {row.row_id: phases}, {})
    assert made is not None
    assert made.phases == ("attend",)
    assert made.lines[0].total == "8.00"


def test_forward_and_backward_are_lines_of_their_own(table: Results) -> None:
    row = sparse_row(table)
    phases = [phase(row, "attend", 8.0), phase(row, "attend", 16.0, **{"pass": "bwd"})]
    made = phase_table(cases_of(table.rows)[0], {row.row_id: phases}, {})
    assert made is not None
    assert [(line.pass_, line.total) for line in made.lines] == [("forward", "8.00"), ("backward", "16.0")]


def test_details_show_what_a_phase_reaches_and_where_a_time_comes_from(table: Results) -> None:
    row = sparse_row(table)
    rows = [
        phase(row, "pool", 1.0, bytes=3e9, bytes_modelled=4e9, tbs=3.0, bandwidth=0.9, bandwidth_probe=1.0),
        phase(row, "attend", 8.0, flops=4e12, tflops=500.0, mfu=0.505, mfu_probe=0.625, peak_extra_mib=12.0),
        phase(row, "merge", 1.0),
        phase(row, "qk", 3.0, parent="attend", provenance="modelled", time_lo_ms=1.0, note="a model"),
        phase(row, "qk", 2.0, parent="attend", provenance="ablated", note="a difference"),
    ]  # fmt: skip
    made = phase_table(cases_of(table.rows)[0], {row.row_id: rows}, {})
    assert made is not None
    found = [(line.phase, line.provenance, line.modelled, line.ms) for line in made.details]
    assert found == [
        ("pool", "measured", False, "1.00"), ("attend", "measured", False, "8.00"),
        ("qk, in attend", "ablated", False, "2.00"), ("qk, in attend", "modelled", True, "3.00"),
        ("merge", "measured", False, "1.00"),
    ]  # fmt: skip
    pool, attend, ablated, modelled, _ = made.details
    assert pool.cells[2:5] == (("3.00", ""), ("90%", "100% of measured"), ("3.00 GB", "asked for: 4.00 GB"))
    assert attend.cells[:2] == (("500", "4.00 TFLOP"), ("50%", "62% of measured"))
    assert attend.cells[5] == ("12.0", "")
    assert (ablated.note, modelled.note, modelled.interval) == ("a difference", "a model", "1.00 to 3.30")
    assert made.ceilings == "In this run a matrix product reached 800 TFLOP/s and a copy 3.00 TB/s."
    page = make_report(replace(table, phases=tuple(rows))).html
    assert 'class="number modelled"' in page
    assert made.ceilings in page


def test_memory_is_compared_with_that_of_the_dense_baseline(table: Results) -> None:
    row = sparse_row(table)
    for dense, said in {12.0: "12.5 MiB, 0.500 more than dense", 13.5: "12.5 MiB, 1.00 less than dense"}.items():
        phases = [phase(row, "attend", 8.0, peak_dense_mib=dense)]
        made = phase_table(cases_of(table.rows)[0], {row.row_id: phases}, {})
        assert made is not None
        assert made.lines[0].memory == said


def test_attend_is_shown_with_the_least_time_of_each_unit_where_the_gpu_is_known(table: Results) -> None:
    pairs = 12 * 10**9
    known = {
        "device": "NVIDIA H100 80GB HBM3", "head_dim": 128, "flops_executed": 4 * 128 * pairs + 7, "flops_selection": 7,
        "executed_pairs": pairs, "sm_clock_mhz": 915.0,
    }  # fmt: skip
    row = sparse_row(table).model_copy(update=known)
    attend = phase(row, "attend", 30.0, bytes=3.35e9)
    (line,) = phase_details(row, "sta", [attend])
    # 132 multiprocessors at half the clock make 16 exponentials each, and half of 989.4 TFLOP/s.
    assert line.note == "at least 12.4 ms for products, 6.21 ms for exponentials, 1.00 ms for memory"
    (line,) = phase_details(row.model_copy(update={"device": "Test CPU"}), "sta", [attend])
    assert line.note == ""


def test_without_a_profile_the_page_has_no_such_part(table: Results) -> None:
    assert "Where the time goes" not in make_report(table).html


def test_the_page_shows_phases_complaint_trace_and_waterfall(table: Results) -> None:
    row = sparse_row(table)
    phases = [phase(row, "attend", 8.0, complaint="the phases add up to 9 ms")]
    page = make_report(replace(table, phases=tuple(phases)), {row.cell_id: "../traces/a b.json.gz"}).html
    assert "Where the time goes" in page
    assert "not to be trusted: the phases add up to 9 ms" in page
    assert '<a href="../traces/a b.json.gz" download>' in page
    assert len(re.findall(r"Unexplained is what all bars leave over", page)) == 1
    assert "Perfetto" in page
    assert "Perfetto" not in make_report(replace(table, phases=tuple(phases))).html  # there is no trace to open


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
    attend = PhaseRow.model_validate(phase(row, "attend", 5.0))
    _, qk, av = phase_details(row, "sta", [attend, *rows])
    assert qk.cells[:2] == (("1,315", "2.00 TFLOP"), ("133%", "165% of measured"))
    assert av.cells[:2] == (("–", "2.00 TFLOP"), ("–", ""))


@pytest.mark.parametrize("executed", [0, 5, 3])
def test_counts_that_leave_the_kernel_nothing_to_do_make_no_waterfall_and_no_bounds(
    table: Results, executed: int
) -> None:
    known = {"flops_executed": executed, "flops_selection": 5, "device": "NVIDIA H100 80GB HBM3"}
    row = sparse_row(table).model_copy(update=known)
    attend = PhaseRow.model_validate(phase(row, "attend", 5.0))
    assert waterfall_of(row, [attend]) is None
    assert phase_details(row, "sta", [attend])[0].note == ""
