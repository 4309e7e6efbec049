"""The waterfall of a row, from its phases."""

from __future__ import annotations

from collections.abc import Iterable

from attnbench.cost.waterfall import Span, Waterfall, build_waterfall
from attnbench.results.records.cells import PhaseRow, Row


def waterfall_of(row: Row, phases: Iterable[PhaseRow]) -> Waterfall | None:
    """Return the waterfall of a profiled row; None for a dense row, and if the baseline or phases are missing."""
    top = measured_top(phases)
    known = row.latency_ms and row.baseline_ms and row.density and row.flops_algorithmic and row.flops_executed
    if not known or not top or row.density == 1.0:
        return None
    assert row.latency_ms is not None
    assert row.baseline_ms is not None
    assert row.density is not None
    assert row.flops_executed is not None
    assert row.flops_algorithmic is not None
    times: dict[str, Span] = {}
    for phase in top:
        span = Span(phase.time_ms, phase.time_lo_ms, phase.time_hi_ms)
        times[phase.phase] = times[phase.phase] + span if phase.phase in times else span
    in_attention = row.flops_executed - (row.flops_selection or 0) - (row.flops_branch or 0)
    if in_attention <= 0:
        return None
    return build_waterfall(
        latency=Span.of(row.latency_ms, row.latency_lo_ms, row.latency_hi_ms),
        dense=Span.of(row.baseline_ms),
        density=row.density,
        kept_share=min(1.0, row.flops_algorithmic / in_attention),
        phases=times,
    )


def measured_top(phases: Iterable[PhaseRow]) -> list[PhaseRow]:
    """Return the measured phases that are not part of another."""
    return [phase for phase in phases if phase.parent is None and phase.provenance == "measured"]
