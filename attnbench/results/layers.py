"""Means of methods whose layers differ, weighted by how many of the model's layers are of each kind.

They are computed whenever results are read, and never stored.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field

from attnbench.results.estimates import Estimate, middle, spread
from attnbench.results.intervals import median_interval
from attnbench.results.load import Missing, Results, read
from attnbench.results.pairs import (
    baseline_ids,
    baseline_samples,
    by_cell,
    by_round,
    latency_logs,
    own_samples,
    speedup_logs,
)
from attnbench.results.records.cells import FLAGS, STABILITIES, Row, Sample, Stability, Verdict, digest
from attnbench.results.speedups import Ratio, RunRound, Timings, charged_ms, paired_timings, ranked_speedup

if TYPE_CHECKING:
    import pandas as pd

_AVERAGED = (
    "density", "plan_bytes", "flops_dense", "flops_algorithmic", "flops_selection", "flops_branch",
    "flops_executed", "executed_pairs", "empty_rows",
    "approximation_error", "approximation_cosine", "mass_recall", "mass_recall_worst", "sm_clock_mhz", "power_w",
    "latency_warm_ms", "host_ms", "baseline_ms", "latency_eager_ms", "baseline_eager_ms",
    "selection_ms",
)  # fmt: skip
_WORST = (
    "numerical_error",
    "numerical_tolerance",
    "selection_differs",
    "twin_error",
    "peak_extra_mib",
    "temperature_c",
)
_WORST_FIRST: tuple[Verdict, ...] = (
    "incorrect",
    "crashed",
    "error",
    "timeout",
    "oom",
    "throttled",
    "unsupported",
    "ok",
)


class MeanRow(Row):
    """The mean of one method over its kinds of layers, with the columns of a row."""

    layers: str = Field(description="each kind's layer, and how many of the model's layers it stands for: 0×10, 1×10")


@dataclass(frozen=True)
class Mean:
    """One method, with one set of settings, over its layers in one run.

    Attributes:
        members: the rows of its kinds, by layer; at least one.
        cell_id: digest of what was asked, whatever the layers: equal in two runs of the same method.
        taken: samples of the run, by cell_id.
        beside: rows of the run, by cell_id.
        missing: kinds of layers that the run has no row of, because it is not finished.
    """

    members: tuple[Row, ...]
    cell_id: str
    taken: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    beside: Mapping[str, Row] = field(default_factory=dict)
    missing: int = 0

    @property
    def first(self) -> Row:
        """A row to read from what all kinds share."""
        return self.members[0]

    @property
    def weights(self) -> tuple[int, ...]:
        """How many of the model's layers each kind stands for; 1 each where that is not known."""
        known = [row.layers_alike for row in self.members if row.layers_alike is not None]
        return tuple(known) if len(known) == len(self.members) else (1,) * len(self.members)

    @property
    def layers(self) -> str:
        """The kinds and their weights in words: 0×10, 1×10, 2×10."""
        return ", ".join(f"{row.layer}×{weight}" for row, weight in zip(self.members, self.weights, strict=True))

    @property
    def worst(self) -> Row:
        """The kind that says what is wrong, if anything is."""
        known = {verdict: place for place, verdict in enumerate(_WORST_FIRST)}
        return min(self.members, key=lambda row: known.get(row.verdict, 0))

    @property
    def verdict(self) -> Verdict:
        """ok if all kinds are: the mean has no latency if one kind lacks it."""
        verdict = self.worst.verdict
        return "error" if self.missing and verdict == "ok" else verdict

    @property
    def reason(self) -> str:
        """Why the verdict is not ok."""
        row = self.worst
        if self.missing and row.verdict == "ok":
            kinds = self.missing + len(self.members)
            return f"the run is not finished: {self.missing} of {kinds} kinds of layers have no row"
        several = len(self.members) > 1
        return f"layer {row.layer}: {row.reason or row.verdict}" if several and row.reason else row.reason

    @property
    def engine(self) -> str:
        """Who ran it; several where the kinds differ."""
        return ", ".join(dict.fromkeys(row.engine for row in self.members))

    @cached_property
    def rounds(self) -> dict[int, tuple[float, float | None]]:
        """The weighted mean of each round that all kinds have, and of the baselines beside them, in ms."""
        if self.verdict != "ok":
            return {}
        own, dense = zip(*(rounds_of(row, self.taken) for row in self.members), strict=True)
        return mean_rounds(own, dense, self.weights)

    @cached_property
    def charged_rounds(self) -> dict[int, tuple[float, float | None]]:
        """The same, a state's share of making it anew included; ``rounds`` without a state."""
        if not self._is_charged:
            return self.rounds
        own, dense = zip(*(rounds_of(row, self.taken) for row in self.members), strict=True)
        charged = [
            {number: charged_ms(row, time) for number, time in times.items()}
            for row, times in zip(self.members, own, strict=True)
        ]
        return mean_rounds(charged, dense, self.weights)

    @property
    def _is_charged(self) -> bool:
        return self.verdict == "ok" and any(row.latency_amortised_ms is not None for row in self.members)

    @property
    def shared_rounds(self) -> dict[RunRound, float]:
        """Its ``charged_rounds`` by the rounds that the methods of its run share; none of what had its own process."""
        taken = [own_samples(row, self.taken.get(row.cell_id, ())) for row in self.members]
        if not all(samples and all(sample.group == "" for sample in samples) for samples in taken):
            return {}
        return {(self.first.run_id, number): own for number, (own, _) in self.charged_rounds.items()}

    @property
    def shown(self) -> Row:
        """Its row; of a single kind the row that was measured, which has the same figures."""
        return self.row if self._is_several else self.first

    @property
    def kinds(self) -> tuple[Mean, ...]:
        """Each kind of layer by itself; none where this is the mean of a single one."""
        if not self._is_several:
            return ()
        return tuple(Mean((row,), row.cell_id, self.taken, self.beside) for row in self.members)

    @property
    def _is_several(self) -> bool:
        return len(self.members) > 1 or self.missing > 0

    @cached_property
    def speedup(self) -> Ratio | None:
        """The speed-up over the dense baseline with its interval; None without a latency or a baseline."""
        row = self.shown
        if row.latency_ms is None or row.speedup is None:
            return None
        if (timings := paired_timings(self.rounds.values())) is not None:
            return timings.speedup(row.speedup)
        apart = self._dense_apart or [row.speedup * row.latency_ms]
        return Timings(row.samples_ms, apart, paired=False).speedup(row.speedup)

    @cached_property
    def ranked_speedup(self) -> Ratio | None:
        """The speed-up that reports rank by: ``speedup``, what making a state anew costs included."""
        row = self.shown
        value = ranked_speedup(row)
        if row.latency_amortised_ms is None or row.latency_ms is None or value is None:
            return self.speedup
        if (timings := paired_timings(self.charged_rounds.values())) is not None:
            return timings.speedup(value)
        own = [charged_ms(row, time) for time in row.samples_ms]
        return Timings(own, self._dense_apart or [row.baseline_ms or 0.0], paired=False).speedup(value)

    @property
    def _dense_apart(self) -> Sequence[float]:
        """The times of the dense baseline in its own row of the run, for tables without samples."""
        first = self.first
        rows = (self.beside.get(name) for name in baseline_ids(first))
        return next((row.samples_ms for row in rows if row is not None and row.inputs_hash == first.inputs_hash), [])

    @cached_property
    def log_speedup(self) -> Estimate | None:
        """The log of the speed-up over the dense baseline of the same rounds; None without any."""
        logs = speedup_logs(self.rounds.values())
        return middle(logs) if logs else None

    @cached_property
    def log_latency(self) -> Estimate | None:
        """The log of the latency in ms; None without any."""
        logs = latency_logs(self.rounds.values())
        return middle(logs) if logs else None

    @cached_property
    def log_dense(self) -> Estimate | None:
        """The log of the time in ms that the dense baseline took beside it; None without one."""
        logs = latency_logs((dense, None) for _, dense in self.rounds.values() if dense)
        return middle(logs) if logs else None

    @property
    def speedup_spread(self) -> float:
        """The standard deviation of a single round's log speed-up; 0 where it is not known."""
        return spread(self.log_speedup, len(speedup_logs(self.rounds.values())))

    @property
    def latency_spread(self) -> float:
        """The same of the log latency."""
        return spread(self.log_latency, len(self.rounds))

    @property
    def stability(self) -> Stability | None:
        """What the least stable kind is; None if one is not known and none is unstable."""
        found = [row.stability for row in self.members]
        if None in found and "unstable" not in found:
            return None
        return max((each for each in found if each is not None), key=STABILITIES.index)

    @property
    def flags(self) -> str | None:
        """The flags of all kinds; None if those of one are not known."""
        found = [row.flags for row in self.members if row.flags is not None]
        raised = {flag for flags in found for flag in flags.split(",")}
        return ",".join(flag for flag in FLAGS if flag in raised) if len(found) == len(self.members) else None

    def mean_of(self, name: str) -> float | None:
        """Return the weighted mean of a column; None if one kind lacks it."""
        values = [getattr(row, name, None) for row in self.members]
        return None if None in values else self._mean(values)  # type: ignore[arg-type]  # none of them is None

    def largest(self, name: str) -> float | None:
        """Return the largest value of a column; None if one kind lacks it."""
        values = [getattr(row, name, None) for row in self.members]
        return None if None in values else max(values)  # type: ignore[type-var]  # none of them is None

    @cached_property
    def row(self) -> MeanRow:
        """The mean as a row; of a single kind, its row."""
        first = self.first
        shown = {name: getattr(first, name) for name in Row.model_fields} | {"layers": self.layers}
        if self._is_several:
            shown |= {"cell_id": self.cell_id, "row_id": digest([first.run_id, self.cell_id])}
            shown |= {"verdict": self.verdict, "reason": self.reason, "engine": self.engine}
            shown |= {name: self._whole(name, self.mean_of(name)) for name in _AVERAGED if name in Row.model_fields}
            shown |= {name: self.largest(name) for name in _WORST}
            shown |= {"stability": self.stability, "flags": self.flags, "kept_by_frame": None}
            shown |= self._latency()
        return MeanRow.model_construct(**shown)

    def _latency(self) -> dict[str, Any]:
        times = [own for own, _ in self.rounds.values()]
        if not times:
            names = ("latency_ms", "latency_lo_ms", "latency_hi_ms", "interval", "latency_warm_ms", "host_ms")
            more = ("timer", "speedup", "translation", "baseline_ms", "latency_eager_ms", "baseline_eager_ms")
            parts = ("selection_ms", "refresh_ms", "latency_amortised_ms", "refresh_every", "other_ms", "other_every")
            return dict.fromkeys((*names, *more, *parts)) | {"samples_ms": []}
        interval = median_interval(times)
        dense, density = self._baseline_ms, self.mean_of("density")
        speedup = None if dense is None else dense / interval.median
        return {
            "latency_ms": interval.median,
            "latency_lo_ms": interval.lo,
            "latency_hi_ms": interval.hi,
            "interval": interval.kind,
            "samples_ms": times,
            "baseline_ms": dense,
            "speedup": speedup,
            "translation": speedup * density if speedup is not None and density else None,
            "latency_amortised_ms": latency_of(self.charged_rounds.values()) if self._is_charged else None,
            "refresh_ms": self._ms_of_steps("refresh"),
            "refresh_every": self._steps_to_each("refresh"),
            "other_ms": self._ms_of_steps("other"),
            "other_every": self._steps_to_each("other"),
        }

    def _shares_of(self, kind: str) -> list[float]:
        """Return the share of the steps of each kind of layers that are refreshes, or "other"."""
        every = [getattr(row, f"{kind}_every") for row in self.members]
        return [0.0 if each is None else 1 / each for each in every]

    def _steps_to_each(self, kind: str) -> float | None:
        share = self._mean(self._shares_of(kind))
        return 1 / share if share else None

    def _ms_of_steps(self, kind: str) -> float | None:
        """Return what such a step takes in the mean over all of them."""
        shares = self._shares_of(kind)
        times = [share * (getattr(row, f"{kind}_ms") or 0.0) for share, row in zip(shares, self.members, strict=True)]
        return self._mean(times) / self._mean(shares) if any(shares) else None

    @property
    def _baseline_ms(self) -> float | None:
        """The median of the baseline, formed round by round like the latency; without rounds, the mean of the kinds."""
        dense = [dense for _, dense in self.rounds.values() if dense is not None]
        return self.mean_of("baseline_ms") if len(dense) < len(self.rounds) else statistics.median(dense)

    def _mean(self, values: Sequence[float]) -> float:
        return weighted_mean(values, self.weights)

    def _whole(self, name: str, value: float | None) -> float | int | None:
        """Return a mean of whole numbers as a whole number, as the column has them."""
        return round(value) if value is not None and isinstance(getattr(self.first, name), int) else value


def rounds_of(row: Row, taken: Mapping[str, Sequence[Sample]]) -> tuple[dict[int, float], dict[int, float]]:
    """Return the times of a row and of its dense baseline by round, in ms.

    Args:
        row: with a latency.
        taken: samples of its run, by cell_id. Without them the rounds of a row are its ``samples_ms`` in their order.
    """
    own = by_round(own_samples(row, taken.get(row.cell_id, ())))
    if len(own) != len(row.samples_ms):  # a table without samples, or with those of a part
        return dict(enumerate(row.samples_ms)), {}
    samples = [sample for name in dict.fromkeys((row.cell_id, *baseline_ids(row))) for sample in taken.get(name, ())]
    dense = by_round(baseline_samples(row, samples))
    return (
        {number: own[_, number].cold_ms for _, number in own},
        {number: dense[_, number].cold_ms for _, number in own if (_, number) in dense},
    )


def weighted_mean(values: Sequence[float], weights: Sequence[int]) -> float:
    """Return the mean of values, each counted as often as its weight says."""
    return math.fsum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def mean_rounds(
    own: Sequence[Mapping[int, float]], dense: Sequence[Mapping[int, float]], weights: Sequence[int]
) -> dict[int, tuple[float, float | None]]:
    """Return the weighted mean of each round that all kinds of layers have, and of the baselines beside them, in ms.

    Args:
        own: the times of each kind by round.
        dense: those of its dense baseline.
        weights: of the kinds.
    """
    if len(own) == 1:
        return {number: (own[0][number], dense[0].get(number)) for number in sorted(own[0])}
    return {
        number: (
            weighted_mean([each[number] for each in own], weights),
            weighted_mean([each[number] for each in dense], weights) if all(number in each for each in dense) else None,
        )
        for number in sorted(set.intersection(*(set(each) for each in own)))
    }


def means_of(
    rows: Iterable[Row], samples: Mapping[str, Sequence[Sample]] | None = None, missing: Missing | None = None
) -> list[Mean]:
    """Return the mean of each method and settings of each run, in the order of the rows.

    Args:
        rows: of any runs.
        samples: of each run, by run_id. Without them the rounds of a row are its ``samples_ms`` in their order.
        missing: of ``Results``, for runs that are not finished.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    beside: dict[str, dict[str, Row]] = {}
    for row in rows:
        beside.setdefault(row.run_id, {})[row.cell_id] = row
        groups.setdefault((row.run_id, row.mean_identity), []).append(row)
    known = by_cell(samples or {})
    return [
        Mean(
            tuple(sorted(group, key=lambda row: row.layer)),
            cell_id,
            known.get(run, {}),
            beside[run],
            (missing or {}).get((run, cell_id), 0),
        )
        for (run, cell_id), group in groups.items()
    ]


def mean_rows(results: Results) -> list[MeanRow]:
    """Return the means of results as rows."""
    return [mean.row for mean in means_of(results.rows, results.samples, results.missing)]


def load_means(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read latency tables as means over the layers of each method, weighted by the model's layers.

    Layers of a kind count as often as the model has them, and equally without a model. The latency is the median over
    rounds of the weighted mean of each round, and so is that of the baseline; there is none if one kind of layer has
    none. The speed-up is the latter over the former. Work, density and errors against full attention are weighted
    means; numerical errors and memory are those of the worst kind.

    Args:
        path: as of ``load_results``.

    Returns:
        One row per method and settings of a run, with the columns of ``load_results``, but ``layers``, as
        "0×10, 1×10, 2×10", in the place of ``layer``. ``attrs["environments"]`` is as there.

    Warns:
        TornLine: if the last line of a journal is cut off; it is left out.

    Raises:
        BadInput: as ``load_results``.
    """
    from attnbench.results.frames import frame_of

    found = read(path)
    frame = frame_of(MeanRow, mean_rows(found), found.environments)
    place = int(frame.columns.get_loc("layer"))  # type: ignore[arg-type]  # columns are unique
    layers = frame.pop("layers")
    frame = frame.drop(columns="layer")
    frame.insert(place, "layers", layers)
    return frame


def latency_of(rounds: Iterable[tuple[float, float | None]]) -> float | None:
    """Return the median of the times of rounds, in ms; None without any."""
    times = [own for own, _ in rounds]
    return statistics.median(times) if times else None
