"""Profile the cells of a run, and journal their phases."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from attnbench.kernels.errors import BadInput
from attnbench.profiling.profile import PhaseTime, Profile, profile_call
from attnbench.runner import Bench, Progress, Trial, classified
from attnbench.schema import PhaseRow, Row
from attnbench.store import Journal

TRACES = "traces"
GPU_REPEATS = 7
CPU_REPEATS = 5
CPU_SECONDS = 30.0
"""Seconds a cell on a CPU beyond which fewer calls are recorded, at least one."""

_WORTH_NAMING = 0.01  # share of the call


def profile_rows(
    bench: Bench, journal: Journal, rows: Iterable[Row], progress: Progress, *, repeats: int | None, traces: bool
) -> list[PhaseRow]:
    """Profile every cell that was timed, on the tensors it was timed on, and append its phases to the journal.

    Args:
        bench: of the run, all cells measured.
        journal: of the run, open.
        rows: of the run; phases are compared with their latencies.
        progress: told what is done, which cells could not be profiled, and what work lies outside phases.
        repeats: recorded calls a cell; None for as many as are worth their time.
        traces: write a Chrome trace of each cell into the run's folder, as traces/<cell_id>.json.gz.

    Raises:
        BadInput: if a trace or the journal cannot be written.
    """
    timed = {row.cell_id: row for row in rows if row.verdict == "ok"}
    todo = [trial for trial in bench.trials if trial.cell.identity in timed]
    folder = journal.folder / TRACES if traces else None
    if folder is not None and todo:
        _make(folder)
    found: list[PhaseRow] = []
    for number, trial in enumerate(todo):
        left = sum(t.seconds * (repeats_for(bench.agenda.device, t, repeats) + 2) for t in todo[number:])
        progress.step(f"profiling {trial.job.label}", number, len(todo), left)
        row = timed[trial.cell.identity]
        profile = _profile(bench, trial, row, progress, repeats, folder)
        if profile is None:
            continue
        if profile.complaint:
            progress.note(f"{trial.job.label}: {profile.complaint}")
        if unnamed := _unnamed(profile):
            progress.note(f"{trial.job.label}: outside any phase: {unnamed}")
        for phase in profile.phases:
            record = make_phase_row(row, phase, profile.complaint)
            journal.append(record)
            found.append(record)
    return found


def make_phase_row(row: Row, time: PhaseTime, complaint: str) -> PhaseRow:
    """Return the row of a measured phase of a cell."""
    fields: dict[str, Any] = {
        "row_id": row.row_id,
        "run_id": row.run_id,
        "cell_id": row.cell_id,
        "pass": time.pass_,
        "phase": time.phase,
        "parent": time.parent,
        "time_ms": time.time.median,
        "time_lo_ms": time.time.lo,
        "time_hi_ms": time.time.hi,
        "provenance": "measured",
        "engine": row.engine,
        "kernels": time.kernels,
        "complaint": complaint,
        "peak_extra_mib": None if time.peak_extra is None else max(0, time.peak_extra) / 2**20,
    }
    return PhaseRow.model_validate(fields)


def repeats_for(device: torch.device, trial: Trial, asked: int | None) -> int:
    """Return how many calls of a trial to record: as asked, or as its last call's time allows."""
    if asked is not None:
        return asked
    if device.type == "cuda":
        return GPU_REPEATS
    return max(1, min(CPU_REPEATS, int(CPU_SECONDS / trial.seconds))) if trial.seconds > 0 else CPU_REPEATS


def _profile(
    bench: Bench, trial: Trial, row: Row, progress: Progress, repeats: int | None, folder: Path | None
) -> Profile | None:
    device = bench.agenda.device
    trace = None if folder is None else folder / f"{row.cell_id}.json.gz"
    profile: Profile | None = None
    with classified() as failure:
        call = bench.call(trial.job, trial.cell.engine)
        number = repeats_for(device, trial, repeats)
        profile = profile_call(call.run, call.prepare, device, number, latency_ms=row.latency_ms, trace=trace)
    if failure.verdict is not None:
        progress.note(f"{trial.job.label} could not be profiled: {failure.reason}")
    return profile


def _unnamed(profile: Profile) -> str:
    """Name the GPU work outside phases that takes a share worth naming."""
    worth = {name: ms for name, ms in profile.unnamed.items() if ms > _WORTH_NAMING * profile.span_ms}
    longest = sorted(worth.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name[:80]} {ms:.3g} ms" for name, ms in longest)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write traces to {str(folder)!r}: {error.strerror}") from error
