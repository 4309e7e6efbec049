"""Cells over time: what each run of a folder measured of them, and where that changed.

The speed-up over the dense baseline, paired by round, is what is followed; a cell without a speed-up, as the baseline
itself, is followed by its latency. Errors hold the noise between runs, which more rounds do not make smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal

from attnbench.results.change_points import find_changes
from attnbench.results.estimates import Estimate, difference, middle, power_of_e
from attnbench.results.layers import Mean, means_of
from attnbench.results.load import Results
from attnbench.results.noise import NoiseModel, find_noise
from attnbench.results.pairs import by_round, latency_logs, own_samples, paired, speedup_logs
from attnbench.results.records.cells import Environment, Row

Measure = Literal["speed-up", "latency"]
THRESHOLD = 0.03
"""Changes below 3 % are not reported."""
CONDITIONS = ("threads", "heads_timed", "timer", "inputs_hash")
"""A latency means something else if one of these differs, so runs that differ in one make two series."""
_ATTRIBUTES = ("engine", "engine_version", "settings", "baseline", "baseline_version")
_SHOWN = 9
_UNKNOWN = datetime.min.replace(tzinfo=UTC)
_NOTHING = Estimate(0.0, 0.0, math.inf)


@dataclass(frozen=True)
class Run:
    """When a run was made, and of which code.

    Attributes:
        run_id: of the run.
        environment: None if its journal has no first line.
    """

    run_id: str
    environment: Environment | None

    @cached_property
    def started(self) -> datetime:
        """When it began; a run that does not say is older than any that does."""
        try:
            began = datetime.fromisoformat(self.environment.started_at if self.environment else "")
        except ValueError:
            return _UNKNOWN
        return began if began.tzinfo else began.replace(tzinfo=UTC)

    @property
    def date(self) -> str:
        """The day and minute in UTC, or "unknown"."""
        return "unknown" if self.started == _UNKNOWN else f"{self.started.astimezone(UTC):%Y-%m-%d %H:%M}"

    @property
    def commit(self) -> str:
        """The commit, shortened, with "+" after it if files were changed, or "unknown"."""
        if self.environment is None or not self.environment.git_commit:
            return "unknown"
        return self.environment.git_commit[:_SHOWN] + ("+" if self.environment.git_dirty else "")


@dataclass(frozen=True)
class Point:
    """What one run measured of a cell.

    Attributes:
        run: the run.
        row: the cell's row.
        speedup: log of the speed-up over the dense baseline, by rounds that have both; None without such rounds.
        latency: log of the latency in milliseconds.
    """

    run: Run
    row: Row
    speedup: Estimate | None
    latency: Estimate


@dataclass(frozen=True)
class Gap:
    """A run that did not measure a cell's latency: ``what`` is its verdict there, "absent" or "other conditions"."""

    run: Run
    what: str
    reason: str = ""


@dataclass(frozen=True)
class Shift:
    """A change of level between two runs that follow each other.

    Attributes:
        before, after: the points on both sides.
        log_ratio: log of the new level over the old one, of the measure of the series.
        p_value: how likely the noise alone makes such a change somewhere in the series.
        slower: whether the cell became slower.
    """

    before: Point
    after: Point
    log_ratio: Estimate
    p_value: float
    slower: bool

    @property
    def ratio(self) -> tuple[float, float, float]:
        """The new level over the old one, and the ends of its 95 % interval."""
        return exponentials(self.log_ratio)

    @property
    def commits(self) -> str:
        """The commits in between, as git takes them: OLD..NEW."""
        return f"{self.before.run.commit}..{self.after.run.commit}"

    @property
    def also(self) -> tuple[str, ...]:
        """What else differs between the two runs: engine, baseline, defaults of settings, packages, driver."""
        return tuple(
            f"{name} {old} → {new}" for name, old, new in _differing(_attributes(self.before), _attributes(self.after))
        )


@dataclass(frozen=True)
class Series:
    """One cell over time.

    Attributes:
        points: runs that measured its latency, the oldest first.
        gaps: runs that measured the cells beside it, but not its latency.
        last: its newest row.
        shifts: where its level changed.
    """

    points: tuple[Point, ...]
    gaps: tuple[Gap, ...]
    last: Row
    shifts: tuple[Shift, ...] = ()

    @property
    def measure(self) -> Measure:
        """What is followed: the speed-up where every point has one."""
        return "speed-up" if self.points and all(point.speedup is not None for point in self.points) else "latency"

    @property
    def values(self) -> list[Estimate]:
        """The log of the measure at each point."""
        return [
            point.latency if self.measure == "latency" or point.speedup is None else point.speedup
            for point in self.points
        ]

    @property
    def ended(self) -> Gap | None:
        """The first of the runs since the last point, if the newest run has no latency of the cell."""
        end = self.points[-1].run.started if self.points else _UNKNOWN
        return next((gap for gap in self.gaps if gap.run.started > end), None)


def history_of(
    results: Results, threshold: float = THRESHOLD, noise: Callable[[str, str], NoiseModel] = find_noise
) -> list[Series]:
    """Return each cell of these results over time, with its changes of level.

    Methods whose layers differ come first, as means over their layers, then all cells in the order in which they
    appear.

    Args:
        results: of several runs.
        threshold: the least change that is reported, as a share.
        noise: gives the noise between runs of a device, by name and kind (cpu or cuda).

    Raises:
        Unsupported: without ruptures, if a cell was measured in three runs or more.
    """
    runs = runs_of(results)
    means = {
        mean.row.row_id: mean
        for mean in means_of(results.rows, results.samples, results.missing)
        if len(mean.members) > 1
    }
    rows = _rows_by_key([*(mean.row for mean in means.values()), *results.rows])
    models: dict[tuple[str, str], NoiseModel] = {}

    def model_of(run: Run, row: Row) -> NoiseModel:
        kind = run.environment.device_kind if run.environment else "cpu" if row.timer == "wall" else "cuda"
        if (row.device, kind) not in models:
            models[row.device, kind] = noise(row.device, kind)
        return models[row.device, kind]

    found = []
    for mine in rows.values():
        measured = [(run, mine[run.run_id]) for run in runs if run.run_id in mine]
        points = [
            _point(run, row, _rounds(row, means.get(row.row_id), results), model_of(run, row))
            for run, row in measured
            if row.latency_ms is not None
        ]
        found.append(Series(tuple(points), tuple(_gaps(mine, runs, rows)), measured[-1][1]))
    return with_shifts(found, threshold)


def runs_of(results: Results) -> list[Run]:
    """Return the runs that have rows, the oldest first."""
    environments = results.environments
    runs = [Run(run, environments.get(run)) for run in dict.fromkeys(row.run_id for row in results.rows)]
    return sorted(runs, key=lambda run: run.started)


def with_shifts(found: Sequence[Series], threshold: float = THRESHOLD) -> list[Series]:
    """Return series with their changes of level; all of them are judged together.

    Raises:
        Unsupported: without ruptures, if a series has three points or more.
    """
    # A point of a single round says nothing of its noise, and is left out here.
    known = [[place for place, value in enumerate(each.values) if math.isfinite(value.error)] for each in found]
    values = [[each.values[place] for place in places] for each, places in zip(found, known, strict=True)]
    changes = find_changes(values, math.log1p(threshold))
    made = []
    for each, places, mine in zip(found, known, changes, strict=True):
        sign = 1 if each.measure == "latency" else -1
        shifts = [
            Shift(
                each.points[places[change.index - 1]], each.points[places[change.index]], change.size, change.p_value,
                slower=sign * change.size.value > 0,
            )
            for change in mine
        ]  # fmt: skip
        made.append(replace(each, shifts=tuple(shifts)))
    return made


def exponentials(log: Estimate) -> tuple[float, float, float]:
    """Return the value and the two ends of the 95 % interval of what ``log`` is the logarithm of."""
    lo, hi = log.interval()
    return power_of_e(log.value), power_of_e(lo), power_of_e(hi)


def _key(row: Row) -> tuple[object, ...]:
    """Return what two runs of one cell share that can be compared. A row without samples has no conditions."""
    return (row.cell_id, row.device, *(getattr(row, name) for name in CONDITIONS))


def _rows_by_key(rows: Iterable[Row]) -> dict[tuple[object, ...], dict[str, Row]]:
    """Return the rows of each series by run. A row without a latency belongs to every series of its cell."""
    timed: dict[tuple[object, ...], dict[str, Row]] = {}
    lost: dict[str, dict[str, Row]] = {}
    order: dict[str, None] = {}
    for row in rows:
        order[row.cell_id] = None
        if row.latency_ms is not None:
            timed.setdefault(_key(row), {})[row.run_id] = row
        else:
            lost.setdefault(row.cell_id, {})[row.run_id] = row
    found: dict[tuple[object, ...], dict[str, Row]] = {}
    for cell_id in order:
        own = {key: mine for key, mine in timed.items() if key[0] == cell_id} or {(cell_id,): {}}
        found |= {key: {**lost.get(cell_id, {}), **mine} for key, mine in own.items()}
    return found


def _gaps(
    mine: Mapping[str, Row], runs: Sequence[Run], rows: Mapping[tuple[object, ...], Mapping[str, Row]]
) -> Iterable[Gap]:
    """Yield the runs without a latency of a cell, from its first row on.

    A run that lacks the cell is one of them only if it measured a cell that a run with it measured too: a folder may
    hold runs of something else.
    """
    cells = {row.cell_id for other in rows.values() for run, row in other.items() if run in mine}
    beside = {run for other in rows.values() for run, row in other.items() if row.cell_id in cells}
    begun = False
    for run in runs:
        row = mine.get(run.run_id)
        begun = begun or row is not None
        if row is not None and row.latency_ms is None:
            yield Gap(run, row.verdict, row.reason)
        elif row is None and begun and run.run_id in beside:
            yield _absent(run, mine, rows)


def _absent(run: Run, mine: Mapping[str, Row], rows: Mapping[tuple[object, ...], Mapping[str, Row]]) -> Gap:
    """Return the gap of a run that lacks a cell, or that measured it under other conditions."""
    row = next(iter(mine.values()))
    others = (each[run.run_id] for each in rows.values() if run.run_id in each)
    other = next((each for each in others if each.cell_id == row.cell_id), None)
    if other is None:
        return Gap(run, "absent")
    pairs = [(name, getattr(row, name), getattr(other, name)) for name in CONDITIONS]
    told = "; ".join(f"{name} {old} → {new}" for name, old, new in pairs if old != new)
    return Gap(run, "other conditions", told)


def _rounds(row: Row, mean: Mean | None, results: Results) -> list[tuple[float, float | None]]:
    """Return what each round took of a cell, or of its mean over layers, and of its baseline beside it, in ms."""
    if mean is not None:
        return list(mean.rounds.values())
    samples = results.samples.get(row.run_id, ())
    pairs = paired(row, samples)
    own = by_round(own_samples(row, samples))
    if not own:
        return [(ms, None) for ms in row.samples_ms]
    return [(mine.cold_ms, pairs[key][1].cold_ms if key in pairs else None) for key, mine in own.items()]


def _point(run: Run, row: Row, rounds: Sequence[tuple[float, float | None]], noise: NoiseModel) -> Point:
    latency = _with_noise(latency_logs(rounds), noise, speedup=False)
    logs = speedup_logs(rounds)
    if not logs or row.baseline == f"{row.method}/{row.engine}":
        return Point(run, row, None, latency)
    return Point(run, row, _with_noise(logs, noise, speedup=True), latency)


def _with_noise(logs: Sequence[float], noise: NoiseModel, *, speedup: bool) -> Estimate:
    """Return the estimate of one run from the logs of its rounds, with the noise between runs."""
    between = noise.between_two(0.0, speedup=speedup)  # how much runs scatter here, the series shows by itself
    return difference(_NOTHING, middle(logs), replace(between, error=between.error / math.sqrt(2)))


def _attributes(point: Point) -> dict[str, str]:
    found = {name: str(getattr(point.row, name)) for name in _ATTRIBUTES}
    if point.run.environment is not None:
        found |= {"driver": str(point.run.environment.driver), "python": point.run.environment.python}
        found |= point.run.environment.packages
    return found


def _differing(old: Mapping[str, str], new: Mapping[str, str]) -> Iterable[tuple[str, str, str]]:
    for name in dict.fromkeys([*old, *new]):
        if (before := old.get(name, "absent")) != (after := new.get(name, "absent")):
            yield name, before, after
