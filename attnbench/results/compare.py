"""Compare two latency tables cell by cell: what became slower, what faster, and what the samples cannot tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from attnbench.kernels.errors import BadInput
from attnbench.results.intervals import Interval, geometric_mean, ratio_interval
from attnbench.results.load import Results
from attnbench.results.records.cells import Cell, Environment, Row
from attnbench.results.records.cells import Interval as IntervalKind

Change = Literal["broken", "slower", "unclear", "faster", "same", "not comparable", "skipped", "only in A", "only in B"]

THRESHOLD = 0.03
# A latency means something else if one of these differs. The device is part of a cell's identity as well.
MUST_AGREE = ("device", "threads", "heads_timed", "timer", "inputs_hash")
_SEVERITY: tuple[Change, ...] = (
    "broken",
    "slower",
    "unclear",
    "faster",
    "same",
    "not comparable",
    "skipped",
    "only in A",
    "only in B",
)
_COMPARED: tuple[Change, ...] = ("slower", "unclear", "faster", "same")


@dataclass(frozen=True, slots=True)
class CellChange:
    """One cell. ``ratio`` is B's median latency over A's, between ``lo`` and ``hi``; above 1 is slower."""

    cell_id: str
    cell: dict[str, Any]
    change: Change
    reason: str = ""
    a_ms: float | None = None
    b_ms: float | None = None
    ratio: float | None = None
    lo: float | None = None
    hi: float | None = None
    interval: IntervalKind | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two tables compared, worst cells first. ``refusal`` says why the tables as a whole cannot be compared."""

    threshold: float
    cells: tuple[CellChange, ...]
    environment_changes: tuple[str, ...] = ()
    refusal: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many cells there are of each change, worst first."""
        found = Counter(cell.change for cell in self.cells)
        return {change: found[change] for change in _SEVERITY if found[change]}

    @property
    def geometric_mean(self) -> float | None:
        """Geometric mean of the ratios of all compared cells; None without any."""
        return geometric_mean([cell.ratio for cell in self.cells if cell.ratio is not None])

    @property
    def exit_code(self) -> int:
        """0 fine, 1 a cell is slower or broken, 3 a cell is unclear, 4 nothing could be compared."""
        counts = self.counts
        if self.refusal is not None:
            return 4
        if "broken" in counts or "slower" in counts:
            return 1
        if not any(change in counts for change in _COMPARED):
            return 4
        return 3 if "unclear" in counts else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "exit_code": self.exit_code,
            "threshold": self.threshold,
            "refusal": self.refusal,
            "geometric_mean": self.geometric_mean,
            "counts": self.counts,
            "environment_changes": list(self.environment_changes),
            "cells": [asdict(cell) for cell in self.cells],
        }


def compare_tables(a: Results, b: Results, threshold: float = THRESHOLD) -> Comparison:
    """Compare the latency table of ``b`` with that of ``a``; of a cell the newest run counts.

    With r = B's latency over A's, a cell is slower if all of r's interval lies above 1 + threshold, faster if all lies
    below 1 / (1 + threshold), the same if all lies between the two, otherwise unclear. A cell that was ok in A and is
    not in B is broken, and so is any cell that is incorrect in B.

    Raises:
        BadInput: if the threshold is not in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise BadInput(f"threshold {threshold!r} must be a fraction from 0 to below 1, as 0.03 for 3 %")
    rows_a, rows_b = _newest_rows(a), _newest_rows(b)
    devices_a, devices_b = _devices(rows_a), _devices(rows_b)
    if rows_a and rows_b and not devices_a & devices_b:
        names = [" and ".join(sorted(devices)) for devices in (devices_a, devices_b)]
        return Comparison(
            threshold, (), refusal=f"A was measured on {names[0]}, B on {names[1]}: not the same hardware"
        )
    cells = [_compare_cell(rows_a.get(key), rows_b.get(key), threshold) for key in {**rows_a, **rows_b}]
    cells.sort(key=lambda cell: (_SEVERITY.index(cell.change), -(cell.ratio or 0)))
    changes = _environment_changes(_used_environments(a, rows_a), _used_environments(b, rows_b))
    return Comparison(threshold, tuple(cells), tuple(changes))


def change_of(ratio: Interval, threshold: float) -> Change:
    """Return what an interval of B's latency over A's says at this threshold."""
    if ratio.lo > 1 + threshold:
        return "slower"
    if ratio.hi < 1 / (1 + threshold):
        return "faster"
    return "same" if ratio.lo >= 1 / (1 + threshold) and ratio.hi <= 1 + threshold else "unclear"


def _compare_cell(a: Row | None, b: Row | None, threshold: float) -> CellChange:
    known = a or b
    assert known is not None
    identity: dict[str, Any] = {
        "cell_id": known.cell_id,
        "cell": {name: getattr(known, name) for name in Cell.model_fields},
        "a_ms": a and a.latency_ms,
        "b_ms": b and b.latency_ms,
    }
    if b is not None and b.verdict == "incorrect":
        before = "not in A" if a is None else f"{a.verdict} in A"
        return CellChange(**identity, change="broken", reason=_because(f"{before}, incorrect in B", b))
    if a is None:
        return CellChange(**identity, change="only in B")
    if b is None:
        return CellChange(**identity, change="only in A")
    if a.verdict != "ok":
        return CellChange(**identity, change="skipped", reason=_because(f"{a.verdict} in A", a))
    if b.verdict != "ok":
        return CellChange(**identity, change="broken", reason=_because(f"ok in A, {b.verdict} in B", b))
    pairs = {name: (getattr(a, name), getattr(b, name)) for name in MUST_AGREE}
    different = [f"{name}: {before} in A, {after} in B" for name, (before, after) in pairs.items() if before != after]
    if different:
        return CellChange(**identity, change="not comparable", reason="; ".join(different))
    ratio = ratio_interval(a.samples_ms, b.samples_ms)
    change, reason = change_of(ratio, threshold), ""
    if min(len(a.samples_ms), len(b.samples_ms)) < 2:
        change, reason = "unclear", "a single sample says nothing about the noise"
    return CellChange(
        **identity, change=change, reason=reason, ratio=ratio.median, lo=ratio.lo, hi=ratio.hi, interval=ratio.kind
    )


def _because(what: str, row: Row) -> str:
    return f"{what}: {row.reason}" if row.reason else what


def _newest_rows(results: Results) -> dict[str, Row]:
    """Return the row of each cell that was measured last, by cell_id, in the order of the table."""
    started = {run: _started(environment) for run, environment in results.environments.items()}
    newest: dict[str, Row] = {}
    ages: dict[str, datetime] = {}
    for row in results.rows:
        age = started.get(row.run_id, _UNKNOWN)
        if row.cell_id not in newest or age >= ages[row.cell_id]:
            newest[row.cell_id], ages[row.cell_id] = row, age
    return newest


_UNKNOWN = datetime.min.replace(tzinfo=UTC)


def _started(environment: Environment) -> datetime:
    """Return when a run was started; a run that does not say is older than any that does."""
    try:
        started = datetime.fromisoformat(environment.started_at)
    except ValueError:
        return _UNKNOWN
    return started if started.tzinfo else started.replace(tzinfo=UTC)


def _devices(rows: Mapping[str, Row]) -> set[str]:
    return {row.device for row in rows.values()}


def _used_environments(results: Results, rows: Mapping[str, Row]) -> list[Environment]:
    environments = results.environments
    return [environments[run] for run in sorted({row.run_id for row in rows.values()}) if run in environments]


def _environment_changes(a: Iterable[Environment], b: Iterable[Environment]) -> list[str]:
    """Return one line for each version that differs between the two: look here first for the reason of a change."""
    before, after = _versions(a), _versions(b)
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return [f"{name}: {_list(before.get(name))} in A, {_list(after.get(name))} in B" for name in changed]


def _list(values: set[str] | None) -> str:
    return ", ".join(sorted(values)) if values else "none"


def _versions(environments: Iterable[Environment]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for environment in environments:
        named = {name: getattr(environment, name) for name in ("driver", "python", "platform", "git_commit")}
        for name, value in {**named, **environment.packages}.items():
            if value is not None:
                found.setdefault(name, set()).add(value)
    return found
