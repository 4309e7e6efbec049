"""Compare two latency tables cell by cell: what became slower, what faster, and what the samples cannot tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from attnbench.kernels.errors import BadInput
from attnbench.results.intervals import Interval, geometric_mean, ratio_interval
from attnbench.results.records.cells import Cell, Row
from attnbench.results.records.cells import Interval as IntervalKind

if TYPE_CHECKING:
    import pandas as pd

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
_COLUMNS = {*Cell.model_fields, *MUST_AGREE, "run_id", "cell_id", "verdict", "latency_ms", "samples_ms"}


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


def compare_tables(a: pd.DataFrame, b: pd.DataFrame, threshold: float = THRESHOLD) -> Comparison:
    """Compare table ``b`` with table ``a``, both as `load_results` returns them; of a cell the newest run counts.

    With r = B's latency over A's, a cell is slower if all of r's interval lies above 1 + threshold, faster if all lies
    below 1 / (1 + threshold), the same if all lies between the two, otherwise unclear. A cell that was ok in A and is
    not in B is broken, and so is any cell that is incorrect in B.

    Raises:
        BadInput: if the threshold is not in [0, 1), or a table lacks a column.
    """
    if not 0 <= threshold < 1:
        raise BadInput(f"threshold {threshold!r} must be a fraction from 0 to below 1, as 0.03 for 3 %")
    rows_a, rows_b = _newest_rows(a, "A"), _newest_rows(b, "B")
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


def _compare_cell(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None, threshold: float) -> CellChange:
    known = a if a is not None else b
    assert known is not None
    identity: dict[str, Any] = {
        "cell_id": known["cell_id"],
        "cell": {name: known[name] for name in Cell.model_fields},
        "a_ms": a and a["latency_ms"],
        "b_ms": b and b["latency_ms"],
    }
    if b is not None and b["verdict"] == "incorrect":
        before = "not in A" if a is None else f"{a['verdict']} in A"
        return CellChange(**identity, change="broken", reason=_because(f"{before}, incorrect in B", b))
    if a is None:
        return CellChange(**identity, change="only in B")
    if b is None:
        return CellChange(**identity, change="only in A")
    if a["verdict"] != "ok":
        return CellChange(**identity, change="skipped", reason=_because(f"{a['verdict']} in A", a))
    if b["verdict"] != "ok":
        return CellChange(**identity, change="broken", reason=_because(f"ok in A, {b['verdict']} in B", b))
    different = [f"{name}: {a[name]} in A, {b[name]} in B" for name in MUST_AGREE if a[name] != b[name]]
    if different:
        return CellChange(**identity, change="not comparable", reason="; ".join(different))
    ratio = ratio_interval(a["samples_ms"], b["samples_ms"])
    change, reason = change_of(ratio, threshold), ""
    if min(len(a["samples_ms"]), len(b["samples_ms"])) < 2:
        change, reason = "unclear", "a single sample says nothing about the noise"
    return CellChange(
        **identity, change=change, reason=reason, ratio=ratio.median, lo=ratio.lo, hi=ratio.hi, interval=ratio.kind
    )


def _because(what: str, row: Mapping[str, Any]) -> str:
    return f"{what}: {row['reason']}" if row.get("reason") else what


def _newest_rows(table: pd.DataFrame, name: str) -> dict[str, dict[str, Any]]:
    """Return the row of each cell that was measured last, by cell_id, in the order of the table."""
    if table.empty:
        return {}
    missing = sorted(_COLUMNS - set(table.columns))
    if missing:
        raise BadInput(f"table {name} is not a latency table: it has no column {', '.join(missing)}")
    environments = table.attrs.get("environments", {})
    newest: dict[str, dict[str, Any]] = {}
    ages: dict[str, datetime] = {}
    for record in table.to_dict("records"):
        row = _plain(record)
        key, started = row["cell_id"], _started(environments.get(row["run_id"], {}))
        if key not in newest or started >= ages[key]:
            newest[key], ages[key] = row, started
    return newest


def _plain(record: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Return the values as the row had them: pandas knows None as NaN, whole numbers beside it as floats."""
    values: dict[str, Any] = {}
    for name, value in record.items():
        plain = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(plain, float):
            plain = None if plain != plain else int(plain) if str(name) in _WHOLE and plain.is_integer() else plain
        values[str(name)] = plain
    return values


_WHOLE = {name for name, field in Row.model_fields.items() if field.annotation in (int, int | None)}


def _started(environment: Mapping[str, Any]) -> datetime:
    """Return when a run was started; a run that does not say is older than any that does."""
    text = environment.get("started_at")
    started = datetime.fromisoformat(text) if text else datetime.min
    return started if started.tzinfo else started.replace(tzinfo=UTC)


def _devices(rows: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {row["device"] for row in rows.values()}


def _used_environments(table: pd.DataFrame, rows: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    environments = table.attrs.get("environments", {})
    return [environments[run] for run in sorted({row["run_id"] for row in rows.values()}) if run in environments]


def _environment_changes(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one line for each version that is not the same in both tables: a reason to look for before any other."""
    before, after = _versions(a), _versions(b)
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return [f"{name}: {_list(before.get(name))} in A, {_list(after.get(name))} in B" for name in changed]


def _list(values: set[str] | None) -> str:
    return ", ".join(sorted(values)) if values else "none"


def _versions(environments: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for environment in environments:
        named = {name: environment.get(name) for name in ("driver", "python", "platform", "git_commit")}
        for name, value in {**named, **environment.get("packages", {})}.items():
            if value is not None:
                found.setdefault(name, set()).add(str(value))
    return found
