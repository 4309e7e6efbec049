"""Compare two latency tables: what became slower, what faster, what was lost, and what the samples cannot tell.

Methods are judged by the mean over their layers, relative to the dense baseline of the same rounds. The model of noise
has a part between runs, so more rounds make intervals narrower only as far as they may.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.results.alike import Wanted, asked_apart, joined, methods_unknown, wanted_of
from attnbench.results.estimates import Estimate, difference, power_of_e, significant
from attnbench.results.in_turns import Shared, between_pairs, log_ratio, matched, mean_ratio, shared_by
from attnbench.results.intervals import geometric_mean
from attnbench.results.layers import Mean, latency_of, means_of
from attnbench.results.load import Results
from attnbench.results.noise import KINDS, NoiseModel, find_noise
from attnbench.results.pairs import DENSE
from attnbench.results.records.cells import Cell, Environment
from attnbench.results.verdicts import Change, Difference, judge
from attnbench.results.worse import attributes, shared, worse

THRESHOLD = 0.03
MARGINS = {"cpu": 0.10, "cuda": 0.05}
FALSE_RATE = 0.02
"""Of the changes that are called significant, the share that may be none."""

# A latency means something else if one of these differs. The device is part of a cell's identity as well.
MUST_AGREE = ("device", "threads", "heads_timed", "timer", "inputs_hash")
REGRESSIONS: tuple[Change, ...] = ("broken", "only in A", "not comparable", "slower", "worse", "other engine")
_SEVERITY: tuple[Change, ...] = (*REGRESSIONS, "unclear", "faster", "same", "skipped", "only in B")
_COMPARED: tuple[Change, ...] = ("slower", "worse", "other engine", "unclear", "faster", "same")
_FAILED: tuple[Change, ...] = ("broken", "slower", "worse", "other engine")


@dataclass(frozen=True, slots=True)
class CellChange:
    """One method with its settings, over its layers.

    Attributes:
        cell_id: equal in both tables.
        cell: what was asked, and what it came to in B, or in A if B lacks it; ``layers`` in the place of layer.
        change: what became of it.
        reason: why, in a sentence.
        a_ms, b_ms: median latencies.
        a_speedup, b_speedup: over the dense baseline of each.
        a_speedup_lo, a_speedup_hi, b_speedup_lo, b_speedup_hi: their intervals, as in every other table. They cover the
            noise within each run; the one of ``ratio`` covers that between runs too.
        ratio: how many times slower B is than A, above 1 is slower, with the 95 % interval ``lo`` to ``hi``.
        judged_by: "latency in turns", paired by round with the other run, where both were measured in turns;
            "speed-up", paired by round with the dense baseline; or "latency".
        p_value: how likely so large a change is without one.
        attributes: what differs and does not make another cell, as the engine.
        allowed: whether it was said that this may be missing, may run on another engine, or is accepted.
        asked: whether B was asked for it, or nobody knows: what is only in A may have been left out on purpose.
    """

    cell_id: str
    cell: dict[str, Any]
    change: Change
    reason: str = ""
    a_ms: float | None = None
    b_ms: float | None = None
    a_speedup: float | None = None
    b_speedup: float | None = None
    a_speedup_lo: float | None = None
    a_speedup_hi: float | None = None
    b_speedup_lo: float | None = None
    b_speedup_hi: float | None = None
    ratio: float | None = None
    lo: float | None = None
    hi: float | None = None
    judged_by: str = ""
    p_value: float | None = None
    attributes: tuple[str, ...] = ()
    allowed: bool = False
    asked: bool = True

    @property
    def is_regression(self) -> bool:
        """Whether it makes the comparison fail."""
        return self.change in REGRESSIONS and not self.allowed


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two tables compared, worst cells first. ``refusal`` says why the tables as a whole cannot be compared."""

    threshold: float
    cells: tuple[CellChange, ...]
    environment_changes: tuple[str, ...] = ()
    refusal: str | None = None
    margin: float = 0.0
    noise: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """How many cells there are of each change, worst first."""
        found = Counter(cell.change for cell in self.cells)
        return {change: found[change] for change in _SEVERITY if found[change]}

    @property
    def geometric_mean(self) -> float | None:
        """Geometric mean of the ratios of all compared cells; None without any."""
        return geometric_mean([cell.ratio for cell in self.cells if cell.ratio is not None and cell.ratio < math.inf])

    @property
    def exit_code(self) -> int:
        """0 fine, 1 a regression, 3 a cell is unclear, 4 nothing could be compared."""
        counts = self.counts
        failed = {cell.change for cell in self.cells if cell.is_regression}
        if self.refusal is not None:
            return 4
        if failed.intersection(_FAILED):
            return 1
        if not any(change in counts for change in _COMPARED):
            return 4
        return 1 if failed else 3 if "unclear" in counts else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "exit_code": self.exit_code,
            "threshold": self.threshold,
            "margin": self.margin,
            "noise": self.noise,
            "refusal": self.refusal,
            "geometric_mean": self.geometric_mean,
            "counts": self.counts,
            "environment_changes": list(self.environment_changes),
            "cells": [_finite(asdict(cell)) for cell in self.cells],
        }


def accept(comparison: Comparison, methods: Collection[str]) -> Comparison:
    """Return a comparison in which the regressions of ``methods`` are allowed.

    Raises:
        BadInput: if no cell is of such a method.
    """
    known = dict.fromkeys(str(cell.cell["method"]) for cell in comparison.cells)
    for method in methods:
        if method not in known:
            raise unknown_name("method of --accept", method, known)
    cells = (
        replace(cell, allowed=cell.allowed or (cell.is_regression and cell.cell["method"] in methods))
        for cell in comparison.cells
    )
    return replace(comparison, cells=tuple(cells))


def compare_tables(
    a: Results,
    b: Results,
    threshold: float = THRESHOLD,
    *,
    margin: float | None = None,
    noise: NoiseModel | None = None,
    allow_missing: Collection[str] = (),
    hold_engine: bool = False,
    allow_engine: Collection[str] = (),
    join_alike: bool = False,
    pool: bool = False,
    looks: int = 1,
) -> Comparison:
    """Compare the latency table of ``b`` with that of ``a``.

    A cell is slower, or faster, if that is significant after Benjamini and Hochberg over all cells and the estimate is
    beyond the threshold. It is the same if, otherwise, the 95 % interval lies within the margin, and unclear if not.
    What vanished, became incomparable, lost its verdict, or got worse in density, error, memory or stability is a
    regression. An engine that changed is shown, and its speed judged; with ``hold_engine`` it is a regression too.

    Args:
        a, b: the tables; of a cell the newest run counts.
        threshold: ratio less 1 from which a change matters, as 0.03.
        margin: ratio less 1 within which cells are the same; by default .10 on a CPU and .05 on a GPU.
        noise: between runs; by default what is known of the device.
        allow_missing: methods that B may lack, or may have in a form that cannot be compared.
        hold_engine: a cell that another engine ran in B is a regression, at whatever speed.
        allow_engine: methods for which that is no regression.
        join_alike: cells that ran alike are one, whatever words asked for them: settings in effect, engine and all else
            are equal. A gate asks again in the same words, and what it lacks has vanished.
        pool: take all runs of a cell together, not only the newest.
        looks: how often these tables may be compared while runs are added to them, until the result is clear. So many
            times smaller is the share of changes called significant that may be none.

    Raises:
        BadInput: if the threshold or the margin is not in [0, 1), or neither table has a method that is
            allowed something.
    """
    known = dict.fromkeys(row.method for found in (a, b) for row in found.rows)
    for option, methods in (("--allow-missing", allow_missing), ("--allow-engine", allow_engine)):
        for method in methods:
            if method not in known:
                raise unknown_name(f"method of {option}", method, known)
    for name, value in (("threshold", threshold), ("margin", margin)):
        if value is not None and not 0 <= value < 1:
            raise BadInput(f"{name} {value!r} must be a fraction from 0 to below 1, as 0.03 for 3 %")
    means_a, means_b = _means(a, pool), _means(b, pool)
    devices_a, devices_b = _devices(means_a), _devices(means_b)
    if means_a and means_b and not devices_a & devices_b:
        names = [" and ".join(sorted(devices)) for devices in (devices_a, devices_b)]
        return Comparison(
            threshold, (), refusal=f"A was measured on {names[0]}, B on {names[1]}: not the same hardware"
        )
    kind = _device_kind(b) or _device_kind(a)
    margin = MARGINS[kind or "cpu"] if margin is None else margin
    device = next(iter(sorted(devices_a & devices_b)), "")
    noise = noise or find_noise(device, kind or "cpu")
    shared = shared_by(a, b)
    others, wanted = joined(means_a, means_b) if join_alike else {}, wanted_of(b, means_b, means_a)
    taken, unknown = frozenset(others.values()), methods_unknown(a)
    judged = [
        _Pair(means_a.get(key, []), means_b.get(others.get(key, key), []), shared, wanted, unknown)
        for key in {**means_a, **means_b}
        if key not in taken
    ]
    shift = _machine_shift(judged)
    between = between_pairs([pair.in_turns for pair in judged if pair.in_turns], noise)
    differences = [pair.difference(noise, shift, between) for pair in judged]
    p_values = [each.found.p_value for each in differences if each is not None]
    passing = iter(significant(p_values, FALSE_RATE / looks))
    cells = [
        pair.change(threshold, margin, each, each is not None and next(passing), allow_missing)
        for pair, each in zip(judged, differences, strict=True)
    ]
    if hold_engine:
        cells = [_held(pair, cell, allow_engine) for pair, cell in zip(judged, cells, strict=True)]
    cells.sort(key=lambda cell: (_SEVERITY.index(cell.change), -(cell.ratio or 0)))
    changes = _environment_changes(_used_environments(a, means_a), _used_environments(b, means_b))
    said = f"{noise.speedup_sd:.1%} of the speed-up and {noise.latency_sd:.1%} of the latency between runs"
    said += f", {noise.provenance} on {noise.device}"
    if noise.device in KINDS:
        said += "; at least the scatter of single rounds"
    if any(pair.in_turns for pair in judged):
        said = f"{between.error:.1%} between pairs of runs in turns, beyond the scatter of their rounds"
    return Comparison(threshold, tuple(cells), tuple(changes), margin=margin, noise=said)


@dataclass(frozen=True)
class _Pair:
    """One method in both tables, each with the runs that count, oldest first.

    Attributes:
        a, b: its means.
        shared: what runs in turns share.
        wanted: what B was asked for.
        unknown: methods that A was asked for and did not know.
        known: the newest mean of B, or of A if B has none.
    """

    a: list[Mean]
    b: list[Mean]
    shared: Shared = field(default_factory=dict)
    wanted: Wanted = field(default_factory=Wanted)
    unknown: frozenset[str] = frozenset()
    known: Mean = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", (self.b or self.a)[-1])

    @cached_property
    def fault(self) -> tuple[Change, str] | None:
        """What keeps the two from being compared, if anything does."""
        a, b = self.a[-1] if self.a else None, self.b[-1] if self.b else None
        if b is not None and b.verdict == "incorrect":
            return "broken", _because(f"{'not in A' if a is None else f'{a.verdict} in A'}, incorrect in B", b)
        if a is None:
            return "only in B", "new: A does not know this method" if self.known.first.method in self.unknown else ""
        if b is None:
            return "only in A", self.wanted.lacking(self.a[-1])
        if a.verdict != "ok":
            return "skipped", _because(f"{a.verdict} in A", a)
        if b.verdict != "ok":
            return "broken", _because(f"ok in A, {b.verdict} in B", b)
        pairs = {name: (shared(a, name), shared(b, name)) for name in MUST_AGREE}
        pairs["layers"] = (a.layers, b.layers)
        different = [f"{name}: {x} in A, {y} in B" for name, (x, y) in pairs.items() if x != y]
        return ("not comparable", "; ".join(different)) if different else None

    @property
    def is_asked(self) -> bool:
        """Whether B has it, or was asked for it as far as is known."""
        return bool(self.b) or self.wanted.asks(self.a[-1])

    @cached_property
    def by_speedup(self) -> bool:
        """Whether both sides have the same baseline in their rounds, and are not that baseline."""
        timed = all(any(dense for _, dense in mean.rounds.values()) for mean in (*self.a, *self.b))
        return timed and not self.is_dense and self.a[-1].first.baseline == self.b[-1].first.baseline

    @property
    def is_dense(self) -> bool:
        """Whether it is the dense baseline itself."""
        first = self.a[-1].first
        return first.method == DENSE and f"{first.method}/{first.engine}" == first.baseline

    @cached_property
    def is_timed(self) -> bool:
        """Whether both sides have latencies that may be compared."""
        return self.fault is None and all(mean.rounds for mean in (*self.a, *self.b))

    @cached_property
    def in_turns(self) -> list[Estimate]:
        """The log ratio of each pair of runs that took turns; none where some did not."""
        if not self.is_timed:
            return []
        found = [log_ratio(a, b) for a, b in matched(self.a, self.b, self.shared)]
        return [each for each in found if each is not None]

    def difference(self, noise: NoiseModel, shift: float | None, between_pairs: Estimate) -> Difference | None:
        """Return how many times slower B is, with its error; None if that cannot be said.

        Args:
            noise: between runs.
            shift: by how much the logs of all methods' latencies moved, which may be the machine; None if they did not.
            between_pairs: what pairs of runs that took turns differ by.
        """
        if not self.is_timed:
            return None
        if self.in_turns:
            error = between_pairs.error / math.sqrt(len(self.in_turns))
            found = mean_ratio(self.in_turns, between_pairs)
            return Difference(found, error, between_pairs.error / math.sqrt(2), busy=self._busy)
        scatter = math.sqrt(statistics.fmean(self._spread(mean) ** 2 for mean in (*self.a, *self.b)))
        between = noise.between_two(scatter, speedup=self.by_speedup)
        share = math.sqrt((1 / len(self.a) + 1 / len(self.b)) / 2)
        error = between.error * share
        drift, machine = self._drift(noise, shift)
        a, b = (_pooled([self._middle(mean) for mean in side]) for side in (self.a, self.b))
        before, after = (b, a) if self.by_speedup else (a, b)  # a speed-up falls where a method becomes slower
        found = difference(before, after, replace(between, error=error), Estimate(0.0, drift, math.inf))
        return Difference(found, error, between.error / math.sqrt(2), drift, machine, self._busy)

    def _drift(self, noise: NoiseModel, shift: float | None) -> tuple[float, str]:
        """Return what a change of the machine's speed adds to the error, and what shows that change.

        A speed-up is paired with the dense baseline, which takes out only a part of it. The baseline itself is judged
        by its latency: it may have moved by as much as the methods beside it.
        """
        if self.by_speedup:
            a, b = (statistics.fmean(_dense(mean).value for mean in side) for side in (self.a, self.b))
            said = f"the dense baseline took {_ms(a)} ms in A, {_ms(b)} ms in B"
            return noise.uncancelled * abs(b - a), said
        if self.is_dense and shift is not None:
            return abs(shift), f"latencies of all methods beside it changed by {abs(math.expm1(shift)):.0%} or more"
        return 0.0, ""

    @property
    def _busy(self) -> str:
        flagged = [name for name, side in (("A", self.a), ("B", self.b)) if any(_is_busy(mean) for mean in side)]
        return " and ".join(flagged)

    def _middle(self, mean: Mean) -> Estimate:
        found = mean.log_speedup if self.by_speedup else mean.log_latency
        assert found is not None
        return found

    def _spread(self, mean: Mean) -> float:
        return mean.speedup_spread if self.by_speedup else mean.latency_spread

    def change(
        self, threshold: float, margin: float, found: Difference | None, clear: bool, allow: Collection[str]
    ) -> CellChange:
        """Say what became of the cell."""
        a, b = self.a[-1] if self.a else None, self.b[-1] if self.b else None
        first = self.known.first
        cell = {name: getattr(first, name) for name in Cell.model_fields if name != "layer"}
        made = CellChange(
            self.known.cell_id,
            cell | {"layers": self.known.layers},
            "only in B",
            a_ms=None if a is None else latency_of(a.rounds.values()),
            b_ms=None if b is None else latency_of(b.rounds.values()),
            attributes=() if a is None or b is None else (*asked_apart(a, b), *attributes(a, b)),
            asked=self.is_asked,
            **_speedups(a, b),  # type: ignore[arg-type]  # by name
        )
        if self.fault is not None:
            change, reason = self.fault
            allowed = change in ("only in A", "not comparable") and first.method in allow
            return replace(made, change=change, reason=reason, allowed=allowed)
        if found is None:
            return replace(made, change="unclear", reason="there are no samples to compare")
        assert a is not None
        assert b is not None
        change, reason = judge(found, threshold, margin, clear=clear)
        found_worse = worse(a, b)
        if found_worse:
            reason = "; ".join(filter(None, [*found_worse, reason if change != "same" else ""]))
            change = "slower" if change == "slower" else "worse"
        log = found.found
        lo, hi = log.interval()
        timed = {"ratio": power_of_e(log.value), "lo": power_of_e(lo), "hi": power_of_e(hi), "p_value": log.p_value}
        by = "latency in turns" if self.in_turns else "speed-up" if self.by_speedup else "latency"
        return replace(made, change=change, reason=reason, judged_by=by, **timed)  # type: ignore[arg-type]  # by name


def _pooled(runs: Sequence[Estimate]) -> Estimate:
    """Return the mean of runs that are alike."""
    error = math.sqrt(math.fsum(run.error**2 for run in runs)) / len(runs)
    freedom = math.fsum(run.freedom for run in runs)
    return Estimate(math.fsum(run.value for run in runs) / len(runs), error, freedom)


def _machine_shift(pairs: Sequence[_Pair]) -> float | None:
    """Return by how much the logs of all methods' latencies moved at least; None if they did not move alike.

    Only of those that are judged by their speed-up: what else is said of them does not rest on this.
    """
    moved = []
    for pair in pairs:
        if pair.is_timed and pair.by_speedup:
            a, b = ([mean.log_latency for mean in side] for side in (pair.a, pair.b))
            moved.append(_level(b) - _level(a))
    alike = moved and (min(moved) > 0 or max(moved) < 0)
    return min(moved, key=abs) if alike else None


def _level(logs: Iterable[Estimate | None]) -> float:
    return statistics.fmean(each.value for each in logs if each is not None)


def _dense(mean: Mean) -> Estimate:
    assert mean.log_dense is not None
    return mean.log_dense


def _ms(log: float) -> str:
    return f"{power_of_e(log):.3g}"


def _is_busy(mean: Mean) -> bool:
    return "busy-machine" in (mean.flags or "").split(",")


def _speedups(a: Mean | None, b: Mean | None) -> dict[str, float]:
    """Return the speed-ups of both sides and their intervals, by the names of CellChange."""
    found: dict[str, float] = {}
    for side, mean in (("a", a), ("b", b)):
        if mean is not None and (ratio := mean.speedup) is not None:
            ends = {f"{side}_speedup_lo": ratio.lo, f"{side}_speedup_hi": ratio.hi}
            found |= {f"{side}_speedup": ratio.value, **ends}
    return found


def _held(pair: _Pair, cell: CellChange, allowed: Collection[str]) -> CellChange:
    """Return what became of a cell where another engine is a regression, unless that is allowed."""
    before, after = ({mean.engine for mean in side} for side in (pair.a, pair.b))
    if after <= before or cell.change not in _COMPARED:
        return cell
    if cell.cell["method"] in allowed:
        return replace(cell, allowed=not cell.is_regression)
    said = f"{', '.join(sorted(before))} ran it in A, {', '.join(sorted(after - before))} in B"
    speed = cell.reason if cell.change in ("same", "unclear") else f"{cell.change}: {cell.reason}"
    change = cell.change if cell.is_regression else "other engine"
    return replace(cell, change=change, reason=f"{said}; {speed}")


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return values for JSON, which has no infinity: an open end of an interval is null."""
    return {name: None if isinstance(x, float) and math.isinf(x) else x for name, x in values.items()}


def _because(what: str, mean: Mean) -> str:
    return f"{what}: {mean.reason}" if mean.reason else what


def _means(results: Results, pool: bool) -> dict[str, list[Mean]]:
    """Return the means of each method by cell_id, those of the newest run last, or alone; in the order of the table."""
    started = {run: _started(environment) for run, environment in results.environments.items()}
    found: dict[str, list[Mean]] = {}
    for mean in means_of(results.rows, results.samples, results.missing):
        found.setdefault(mean.cell_id, []).append(mean)
    for runs in found.values():
        runs.sort(key=lambda mean: started.get(mean.first.run_id, _UNKNOWN))
    return found if pool else {key: runs[-1:] for key, runs in found.items()}


_UNKNOWN = datetime.min.replace(tzinfo=UTC)


def _started(environment: Environment) -> datetime:
    """Return when a run was started; a run that does not say is older than any that does."""
    try:
        started = datetime.fromisoformat(environment.started_at)
    except ValueError:
        return _UNKNOWN
    return started if started.tzinfo else started.replace(tzinfo=UTC)


def _devices(means: Mapping[str, Sequence[Mean]]) -> set[str]:
    return {mean.first.device for runs in means.values() for mean in runs}


def _device_kind(results: Results) -> str | None:
    return next((environment.device_kind for environment in results.environments.values()), None)


def _used_environments(results: Results, means: Mapping[str, Sequence[Mean]]) -> list[Environment]:
    used = sorted({mean.first.run_id for runs in means.values() for mean in runs})
    return [results.environments[run] for run in used if run in results.environments]


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
