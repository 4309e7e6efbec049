"""Turn a trial into the row that is journaled."""

from __future__ import annotations

import statistics
from typing import Any

from pydantic import ValidationError

from attnbench.bench.bench import Bench
from attnbench.bench.matched import WITHIN, distance
from attnbench.bench.trial import PlanFacts, Trial
from attnbench.cost.flops.counts import attention_counts
from attnbench.inputs.clip import is_replayed
from attnbench.inputs.spec import check_inputs_spec
from attnbench.kernels.engines import engine_version, is_plain_on_gpu
from attnbench.results.flags import flags_of
from attnbench.results.intervals import median_interval
from attnbench.results.records.cells import Flag, Row, canonical_json, digest
from attnbench.results.records.faults import first_fault


def withdraw_throttled(trial: Trial) -> None:
    """Take the latency from a trial that was sampled on a slowed-down GPU."""
    if trial.verdict is None and (slowdown := trial.telemetry.slowdown) is not None:
        trial.fail("throttled", f"the GPU was slowed by {slowdown} in at least half of the samples")


def make_row(bench: Bench, trial: Trial, run_id: str) -> Row:
    """Return the row of a trial that has failed or has all its samples.

    A trial whose figures cannot be, as a method may give them, fails by that.
    """
    try:
        return _row(bench, trial, run_id)
    except ValidationError as error:
        trial.fail("error", f"its figures make no row: {first_fault(error)}")
        trial.facts = trial.rows = trial.recall = trial.selection = trial.twin = trial.peak_extra = trial.stability = (
            None
        )
        trial.gradients, trial.kernels, trial.frames = None, (), ()
        return _row(bench, trial, run_id)


def _row(bench: Bench, trial: Trial, run_id: str) -> Row:
    shape, facts = bench.agenda.shape, bench.mean_facts(trial)
    cell, seen = trial.cell, trial.telemetry
    seen_values: dict[str, Any] = {
        "sm_clock_mhz": seen.sm_clock_mhz,
        "power_w": seen.power_w,
        "temperature_c": seen.temperature_c,
        "power_capped": seen.power_capped,
    }
    return Row(
        **cell.model_dump(),
        row_id=digest([run_id, cell.identity]),
        run_id=run_id,
        cell_id=cell.identity,
        verdict=trial.verdict or "ok",
        reason=trial.reason,
        model=shape.model,
        layers_alike=trial.job.alike,
        tokens=shape.layout.tokens,
        heads_timed=bench.heads if facts is None else facts.heads,
        engine_version=engine_version(cell.engine),
        inputs_hash=bench.inputs_hash,
        threads=bench.threads,
        **_work(bench, facts),
        **_checks(trial),
        **_latency(bench, trial, facts),
        peak_extra_mib=None if trial.peak_extra is None else trial.peak_extra / 2**20,
        **seen_values,
    )


def _latency(bench: Bench, trial: Trial, facts: PlanFacts | None) -> dict[str, Any]:
    baseline = bench.baseline
    if trial.verdict is not None or not trial.samples:
        return {}
    cold = [sample.cold_ms for sample in trial.samples]
    warm = [sample.warm_ms for sample in trial.samples if sample.warm_ms is not None]
    host = [sample.host_ms for sample in trial.samples if sample.host_ms is not None]
    interval = median_interval(cold)
    latency: dict[str, Any] = {
        "latency_ms": interval.median,
        "latency_lo_ms": interval.lo,
        "latency_hi_ms": interval.hi,
        "interval": interval.kind,
        "latency_warm_ms": statistics.median(warm) if warm else None,
        "host_ms": statistics.median(host) if host else None,
        "samples_ms": cold,
        "timer": bench.stopwatch.timer,
        "latency_eager_ms": None if trial.eager is None else trial.eager.ms,
        "eager_calls": None if trial.eager is None else trial.eager.calls,
        "selection_ms": trial.selection_ms,
        "compile_s": _compile_seconds(trial, interval.median, bench.heads),
        "stop_reason": bench.stop_reason(trial),
        "flags": ",".join(_flags(bench, trial, facts)),
    }
    cycle = trial.job.cycle
    if cycle is not None and trial.refresh_ms is not None:
        latency |= {
            "refresh_ms": trial.refresh_ms,
            "refresh_every": cycle.every,
            "other_ms": trial.other_ms,
            "other_every": None if trial.other_ms is None else cycle.other_every,
            "latency_amortised_ms": cycle.amortised(interval.median, trial.refresh_ms, trial.other_ms or 0.0),
        }
    if baseline is not None and baseline.verdict is None and baseline.samples:
        dense = statistics.median(sample.cold_ms for sample in baseline.samples)
        speedup = dense / interval.median
        latency |= {
            "baseline": f"full/{baseline.cell.engine}",
            "baseline_version": engine_version(baseline.cell.engine),
            "baseline_ms": dense,
            "baseline_eager_ms": None if baseline.eager is None else baseline.eager.ms,
            "speedup": speedup,
            "translation": speedup * facts.density if facts is not None and facts.density else None,
        }
    return latency


def _flags(bench: Bench, trial: Trial, facts: PlanFacts | None) -> tuple[Flag, ...]:
    cell, device = trial.cell, bench.workload.task.device
    target = cell.density_asked
    return flags_of(
        trial.samples,
        on_gpu=device.type == "cuda",
        eager_ms=None if trial.eager is None else trial.eager.ms,
        enqueuing_timed=bench.stopwatch.timer == "events" and cell.gpus is None,
        replayed=_is_replayed(bench),
        plain_torch=cell.engine_asked is None and is_plain_on_gpu(cell.engine, device),
        unmatched=target is not None and (facts is None or distance(facts.density, target) > WITHIN),
    )


def _is_replayed(bench: Bench) -> bool:
    """Whether the bundled video is too short for the grid."""
    spec = check_inputs_spec(bench.agenda.request.inputs)
    return spec.kind == "video" and is_replayed(spec.path, bench.agenda.shape.grid)


def _compile_seconds(trial: Trial, latency_ms: float, heads: int) -> float | None:
    """Return what the first call took beyond a later one, of which time grows with the heads."""
    if trial.first is None:
        return None
    later = latency_ms / 1e3 * trial.first.heads / heads
    return max(0.0, trial.first.seconds - later)


def _work(bench: Bench, facts: PlanFacts | None) -> dict[str, Any]:
    shape = bench.agenda.shape
    if facts is None:
        return {}
    counts = attention_counts(
        head_dim=shape.head_dim,
        dense_pairs=shape.batch * facts.heads * shape.layout.tokens**2,
        pairs=facts.pairs,
        executed_pairs=facts.executed_pairs,
        selection_flops=facts.selection_flops,
        branch_flops=facts.branch_flops,
        direction=bench.agenda.direction,
    )
    return {
        "density": facts.density,
        "plan_bytes": facts.nbytes,
        "flops_dense": counts.dense,
        "flops_algorithmic": counts.algorithmic,
        "flops_selection": counts.selection,
        "flops_branch": counts.branch,
        "flops_executed": counts.executed,
        "empty_rows": facts.empty_rows,
        "executed_pairs": facts.executed_pairs,
    }


def _checks(trial: Trial) -> dict[str, Any]:
    rows, twin = trial.rows, trial.twin
    checks: dict[str, Any] = {}
    if rows is not None:
        compared = rows.tolerance > 0  # otherwise no sampled query keeps a key, and there are no errors
        checks = {
            "numerical_error": finite_or_none(rows.error) if compared else None,
            "numerical_tolerance": rows.tolerance if compared else None,
            "approximation_error": finite_or_none(rows.approximation),
            "approximation_cosine": finite_or_none(rows.cosine),
        }
    if trial.recall is not None:
        checks["mass_recall"] = finite_or_none(trial.recall.mean)
        checks["mass_recall_worst"] = finite_or_none(trial.recall.worst)
    if trial.selection is not None:
        checks["selection_differs"] = trial.selection.differing
    if twin is not None:
        checks["twin_error"] = finite_or_none(twin.worst)
    if trial.gradients is not None:
        checks["gradients_checked"] = trial.gradients.checked
    if trial.stability is not None:
        checks |= {"stability": trial.stability.found, "stability_calls": trial.stability.calls}
    if trial.frames:
        checks["kept_by_frame"] = canonical_json(trial.frames)
    if trial.kernels:
        checks["kernels"] = canonical_json(list(trial.kernels))
    return checks


def finite_or_none(value: float) -> float | None:
    """Return a figure as rows hold it: they have neither NaN nor infinity."""
    return value if abs(value) < float("inf") else None
