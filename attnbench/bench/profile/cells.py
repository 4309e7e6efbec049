"""Profile the cells of a run, and journal their phases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from attnbench.bench.apart.cells import Parts
from attnbench.bench.apart.profiles import profile_apart
from attnbench.bench.apart.task import Profiling
from attnbench.bench.bench import Bench
from attnbench.bench.profile.call import TOLERANCE, PhaseTime, Profile, profile_call
from attnbench.bench.profile.parts import Ablation, PartTime, measure_ablation, model_parts, record_launches
from attnbench.bench.profile.work import Ceilings, Work
from attnbench.bench.trial import Trial, classified
from attnbench.cost.waterfall import DIFFERENCES
from attnbench.kernels.errors import BadInput
from attnbench.kernels.phases import PARENTS
from attnbench.results.intervals import Interval
from attnbench.results.journal import Journal, JournalRecord
from attnbench.results.records.cells import PhaseRow, Provenance, Row
from attnbench.results.run import Progress

TRACES = "traces"
GPU_REPEATS = 7
CPU_REPEATS = 5
CPU_SECONDS = 30.0
"""Seconds a cell on a CPU beyond which fewer calls are recorded, at least one."""

_WORTH_NAMING = 0.01  # share of the call


class Pages(Protocol):
    """Where phases go: the journal of a run, or what stands in for it in a process of a cell."""

    folder: Path
    command: str

    @property
    def earlier(self) -> Sequence[JournalRecord]:
        """What earlier parts of the run wrote."""

    def append(self, *records: JournalRecord) -> None:
        """Write records together."""


def profile_rows(
    bench: Bench,
    journal: Pages,
    rows: Iterable[Row],
    progress: Progress,
    *,
    repeats: int | None,
    traces: bool,
) -> list[PhaseRow]:
    """Profile every cell that was timed, on the tensors it was timed on, and append its phases to the journal.

    Args:
        bench: of the run, all cells measured.
        journal: of the run, open.
        rows: of the run; phases are compared with their latencies.
        progress: told what is done, which cells could not be profiled, and which work lies outside phases.
        repeats: recorded calls per cell; None for as many as are worth their time.
        traces: whether to write a Chrome trace of each cell into the run's folder, as traces/<cell_id>.json.gz.

    Returns:
        the phases of all cells. Those whose phases an earlier part of the run wrote are not profiled again.

    Raises:
        BadInput: if a trace or the journal cannot be written.
    """
    rows = list(rows)
    timed = {row.cell_id: row for row in rows if row.verdict == "ok"}
    mine = {trial.cell.identity for trial in bench.trials}
    found = [record for record in journal.earlier if isinstance(record, PhaseRow) and record.cell_id in mine]
    done = {phase.cell_id for phase in found}
    todo = [t for t in bench.trials if t.cell.identity in timed and t.cell.identity not in done]
    if not todo:
        return found
    journal.command = "profile"  # from here only profile can go on; run would find nothing left to do
    folder = traces_of(journal.folder) if traces else None
    progress.step("peaks: a matrix product and a copy", 0, len(todo), None)
    ceilings = _ceilings(bench, progress)
    dense = _dense_peak(bench, rows)
    for number, trial in enumerate(todo):
        left = sum(t.seconds * (repeats_for(bench.agenda.device, t, repeats) + 2) for t in todo[number:])
        progress.step(f"profiling {trial.job.label}", number, len(todo), left)
        row = timed[trial.cell.identity]
        if (row.heads_timed, row.inputs_hash) != (bench.heads, bench.inputs_hash):
            progress.note(f"{trial.job.label} is not profiled: it was timed on other tensors, {row.heads_timed} heads")
            continue
        profile = _profile(bench, trial, row, progress, repeats, folder)
        if profile is None:
            continue
        for note in (profile.complaint, *profile.notes):
            if note:
                progress.note(f"{trial.job.label}: {note}")
        if unnamed := _unnamed(profile):
            progress.note(f"{trial.job.label}: outside any phase: {unnamed}")
        written = _cell_rows(bench, trial, row, profile, ceilings, dense, progress)
        journal.append(*written)  # together, so that a cell that has any of its phases has all of them
        found += written
    return found


@dataclass
class ProfileAfter:
    """Profiles the cells of a run once all of them have their rows: a session's ``After``.

    Attributes:
        progress, repeats, traces: as of ``profile_rows``.
        phases: of all cells, once the session is over.
    """

    progress: Progress
    repeats: int | None = None
    traces: bool = True
    phases: list[PhaseRow] = field(default_factory=list)

    def __call__(self, bench: Bench, journal: Journal, rows: tuple[Row, ...]) -> None:
        """Profile those of these rows whose cells shared this process."""
        self.phases += profile_rows(bench, journal, rows, self.progress, repeats=self.repeats, traces=self.traces)

    def apart(self, parts: Parts, journal: Journal, rows: tuple[Row, ...]) -> None:
        """Profile those whose cells had processes of their own, each in one of its own again."""
        asked = Profiling(repeats=self.repeats, traces=self.traces, folder=str(journal.folder.resolve()))
        self.phases += profile_apart(parts, journal, rows, self.progress, asked)


def _cell_rows(
    bench: Bench, trial: Trial, row: Row, profile: Profile, ceilings: Ceilings, dense: float | None, progress: Progress
) -> list[PhaseRow]:
    """Return the measured phases of a cell, and the parts of its attend that no profiler sees."""
    work = Work()
    with classified() as failure:
        work = Work.of(bench, trial)
    if failure.verdict is not None:
        progress.note(f"{trial.job.label}: no bytes and FLOPs of phases: {failure.reason}")
    more = {"peak_dense_mib": dense}
    rows = [
        make_phase_row(row, p, profile.complaint, more | work.fields(p.pass_, p.phase, p.time.median, ceilings))
        for p in profile.phases
    ]
    attend = next((p for p in profile.phases if (p.pass_, p.phase) == ("fwd", "attend")), None)
    if attend is None or any(p.parent == "attend" for p in profile.phases):
        return rows
    ablation = _ablate(bench, trial, progress)
    if ablation is not None:
        complaint = _ablation_problem(ablation, attend)
        for part in ablation.parts:
            flops = {"flops": work.flops.get(("fwd", part.phase))}
            fields = more | (
                flops if part.phase in DIFFERENCES else work.fields("fwd", part.phase, part.time.median, ceilings)
            )
            rows.append(make_part_row(row, part, "ablated", complaint, fields))
    if ceilings.gpu is not None and ceilings.products and attend.time.median > 0 and row.executed_pairs:
        parts = model_parts(
            attend.time.median,
            ceilings.gpu,
            pairs=row.executed_pairs,
            head_dim=row.head_dim,
            clock_mhz=row.sm_clock_mhz,
        )
        for part in parts:
            flops = {"flops": work.flops.get(("fwd", part.phase))}
            rows.append(make_part_row(row, part, "modelled", profile.complaint, more | flops))
    return rows


def make_phase_row(row: Row, time: PhaseTime, complaint: str, more: Mapping[str, Any] | None = None) -> PhaseRow:
    """Return the row of a measured phase of a cell."""
    fields: dict[str, Any] = {
        **_fields(row, time.time, complaint),
        "pass": time.pass_,
        "phase": time.phase,
        "parent": time.parent,
        "provenance": "measured",
        "kernels": time.kernels,
        "peak_extra_mib": None if time.peak_extra is None else max(0, time.peak_extra) / 2**20,
    }
    return PhaseRow.model_validate(fields | dict(more or {}))


def make_part_row(
    row: Row, part: PartTime, provenance: Provenance, complaint: str = "", more: Mapping[str, Any] | None = None
) -> PhaseRow:
    """Return the row of a part of a cell's forward attend that was not measured by itself."""
    fields: dict[str, Any] = {
        **_fields(row, part.time, complaint),
        "pass": "fwd",
        "phase": part.phase,
        "parent": PARENTS[part.phase],
        "provenance": provenance,
        "kernels": 0,
        "note": part.note,
    }
    return PhaseRow.model_validate(fields | dict(more or {}))


def _fields(row: Row, time: Interval, complaint: str) -> dict[str, Any]:
    return {
        "row_id": row.row_id,
        "run_id": row.run_id,
        "cell_id": row.cell_id,
        "time_ms": time.median,
        "time_lo_ms": time.lo,
        "time_hi_ms": time.hi,
        "engine": row.engine,
        "complaint": complaint,
    }


def _ceilings(bench: Bench, progress: Progress) -> Ceilings:
    ceilings = Ceilings()
    with classified() as failure:
        ceilings = Ceilings.measured(bench.stopwatch, bench.agenda.dtype)
    if failure.verdict is not None:
        progress.note(f"no peaks were measured: {failure.reason}")
    elif ceilings.probe is not None:
        probe = ceilings.probe
        progress.note(f"a matrix product reaches {probe.matmul_tflops:.3g} TFLOP/s, a copy {probe.copy_tbs:.3g} TB/s")
    return ceilings


def _dense_peak(bench: Bench, rows: Sequence[Row]) -> float | None:
    """Return the MiB that the dense baseline needs beyond inputs and output."""
    if bench.baseline is not None and bench.baseline.peak_extra is not None:
        return bench.baseline.peak_extra / 2**20
    name = next((row.baseline for row in rows if row.baseline), None)
    return next((row.peak_extra_mib for row in rows if f"{row.method}/{row.engine}" == name), None)


def _ablate(bench: Bench, trial: Trial, progress: Progress) -> Ablation | None:
    """Time the builds of our kernel; None where another ran, or where they cannot be run."""
    ablation: Ablation | None = None
    with classified() as failure:
        call = bench.call(trial.job, trial.cell.engine)
        call.prepare()
        if launches := record_launches(call.run):
            call.prepare()
            ablation = measure_ablation(launches, bench.stopwatch)
    if failure.verdict is not None:
        progress.note(f"{trial.job.label}: no ablated builds: {failure.reason}")
    return ablation


def _ablation_problem(ablation: Ablation, attend: PhaseTime) -> str:
    off = ablation.whole_ms / attend.time.median - 1 if attend.time.median > 0 else 0.0
    if abs(off) <= TOLERANCE:
        return ""
    more = "more" if off > 0 else "less"
    return (
        f"the whole build took {ablation.whole_ms:.4g} ms by itself, {abs(off):.1%} {more} than attend in the call, "
        f"{attend.time.median:.4g} ms"
    )


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


def traces_of(folder: Path) -> Path:
    """Return the folder of the traces of a run, which is made if missing.

    Raises:
        BadInput: if it cannot be.
    """
    place = folder / TRACES
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write traces to {str(place)!r}: {error.strerror}") from error
    return place
