"""Group the rows of a results table into cases that may be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import get_args

from attnbench.report.flags_read import NOTHING, taken_in
from attnbench.report.words import DIRECTIONS, chosen_settings, differing_names, kinds_words
from attnbench.results.layers import Mean, MeanRow, means_of
from attnbench.results.records.cells import PhaseRow, Provenance, Row, Sample
from attnbench.results.speedups import Ratio, RunRound, ranked_ms

NO_ROWS = "the results hold no rows: run `attnbench run` first, or name another file or folder"

# Not heads_timed: a cell that is unsupported timed none.
CASE_FIELDS = (
    "run_id", "device", "model", "grid", "text_tokens", "batch", "heads", "kv_heads", "head_dim",
    "dtype", "direction", "inputs", "seed", "gpus", "parallel",
)  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """What is known of a dense baseline of a run.

    Attributes:
        run_id: of the run.
        name: method/engine.
        flags: what spoils its latency; None if its journal cannot tell.
        samples_ms: its times.
        cpu_known: whether it is known if the CPU held it up.
    """

    run_id: str
    name: str
    flags: str | None = None
    samples_ms: tuple[float, ...] = ()
    cpu_known: bool = True


def baseline_row(row: Row) -> Baseline:
    """Return what the row of a dense baseline says of it."""
    return Baseline(row.run_id, f"{row.method}/{row.engine}", row.flags, tuple(row.samples_ms), cpu_known(row))


def cpu_known(row: Row) -> bool:
    """Whether a row tells if the CPU held it up: CUDA events alone do not, without the time of enqueuing."""
    return row.timer != "events" or row.host_ms is not None or row.latency_eager_ms is not None


@dataclass(frozen=True)
class Case:
    """Rows of one run that share device, shape, dtype, direction and inputs, and so one dense baseline.

    Attributes:
        rows: the dense method first, then by the latency of each method's mean over layers; those without come last.
        means: of each method and settings over its layers, in the same order.
        baselines: the dense baselines of these rows that have no row here: of older runs, or only timed beside others.
        apart: what tells it from other cases of the same grid and device: ("12 heads", "forward", "video inputs").
        speedups: of rows and means by row_id, with their intervals; none without a latency or a baseline.
        rounds: times of rows and means in ms, by row_id and the rounds that they share with others of their run.
    """

    rows: tuple[Row, ...]
    means: tuple[MeanRow, ...]
    baselines: tuple[Baseline, ...] = ()
    apart: tuple[str, ...] = ()
    speedups: Mapping[str, Ratio] = field(default_factory=dict)
    rounds: Mapping[str, Mapping[RunRound, float]] = field(default_factory=dict)

    @property
    def first(self) -> Row:
        """A row from which shared fields can be read."""
        return self.rows[0]

    @cached_property
    def timed(self) -> list[Row]:
        """The rows that have a latency."""
        return [row for row in self.rows if row.latency_ms is not None]

    @cached_property
    def baseline(self) -> str | None:
        """The dense baseline of these rows, method/engine."""
        return next((row.baseline for row in self.rows if row.baseline), None)

    @property
    def baseline_row(self) -> Row | None:
        """The row of the dense baseline itself, if it is in the table."""
        return next((row for row in self.timed if f"{row.method}/{row.engine}" == self.baseline), None)

    def dense_row(self, row: Row) -> Row | None:
        """Return the row of the dense baseline of ``row``, measured in the same run; None if it is not here."""
        return self._dense.get((row.run_id, row.baseline))

    def baseline_of(self, row: Row) -> Baseline | None:
        """Return what is known of the dense baseline that ``row`` was timed beside; None if there is none."""
        dense = self.dense_row(row)
        return self._others.get((row.run_id, row.baseline)) if dense is None else baseline_row(dense)

    @cached_property
    def _dense(self) -> dict[tuple[str, str | None], Row]:
        return {(row.run_id, f"{row.method}/{row.engine}"): row for row in reversed(self.timed)}

    @cached_property
    def _others(self) -> dict[tuple[str, str | None], Baseline]:
        return {(each.run_id, each.name): each for each in reversed(self.baselines)}

    @property
    def baseline_ms(self) -> float | None:
        """Latency of the dense baseline in milliseconds."""
        return next((row.baseline_ms for row in self.rows if row.baseline_ms is not None), None)

    @property
    def sparse(self) -> list[Row]:
        """The rows that have a latency and are not dense attention."""
        dense = (self.baseline or "full").split("/")[0]
        return [row for row in self.timed if row.method not in (dense, "full")]

    @property
    def sparse_means(self) -> list[MeanRow]:
        """The means that have a latency and are not dense attention."""
        dense = (self.baseline or "full").split("/")[0]
        return [row for row in self.means if row.latency_ms is not None and row.method not in (dense, "full")]

    @property
    def ranked(self) -> list[Row]:
        """What methods are ranked by: means, or rows without any, that keep the density asked for if one was."""
        rows: list[Row] = [*self.sparse_means] or self.sparse
        return [row for row in rows if "unmatched" not in (row.flags or "").split(",")]

    @property
    def rows_and_means(self) -> list[Row]:
        """The rows, and before those of a method whose layers differ its mean."""
        several = {mean.row_id: mean for mean in self.means if "," in mean.layers}
        found: list[Row] = []
        for mean in self.means:
            found += [mean] if mean.row_id in several else []
            found += [row for row in self.rows if asked_of(row) == asked_of(mean)]
        return found

    @property
    def heads_timed(self) -> str:
        """How many heads were timed, "1" or "1 or 12"; empty if it was all of them, or none."""
        counts = sorted({row.heads_timed for row in self.timed})
        return "" if counts in ([], [self.first.heads]) else " or ".join(map(str, counts))

    @property
    def methods(self) -> list[str]:
        """Method names, in the order of the rows."""
        return list(dict.fromkeys(row.method for row in self.rows))

    def label(self, row: Row, among: Iterable[Row] | None = None) -> str:
        """Return the shortest name that distinguishes ``row`` from the other rows, or from those of ``among``."""
        same = [other for other in among or self.rows if other.method == row.method]
        label = labels_of([*same, row])[row.row_id]
        if among is None and isinstance(row, MeanRow) and "," in row.layers:
            method, *rest = label.split(" · ")
            label = " · ".join([method, f"mean of {kinds_words(row.layers)}", *rest])
        return label


def labels_of(rows: Iterable[Row]) -> dict[str, str]:
    """Return the shortest name that distinguishes each row from the others, by row_id; means have no layer."""
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    found = {}
    for method, same in by_method.items():
        layers = len({row.layer for row in same if not isinstance(row, MeanRow)}) > 1
        steps, engines = len({row.step for row in same}) > 1, len({row.engine for row in same}) > 1
        names = differing_names(row.settings for row in same)
        for row in same:
            parts = [method]
            parts += [f"layer {row.layer}"] if layers and not isinstance(row, MeanRow) else []
            parts += [f"step {row.step}"] if steps else []
            parts += [row.engine] if engines else []
            parts += [told] if (told := chosen_settings(row.settings, names)) else []
            found[row.row_id] = " · ".join(parts)
    return found


def cases_of(rows: Iterable[Row], samples: Mapping[str, Sequence[Sample]] | None = None) -> list[Case]:
    """Group rows into cases, in the order in which they come.

    Args:
        rows: of any runs.
        samples: of each run, by run_id: speed-ups are paired by round, and means over layers formed so.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    taken = taken_in(samples or {})
    for found in rows:
        row = found.model_copy(update={"flags": taken.get(found.run_id, NOTHING).flags(found)})
        groups.setdefault(tuple(getattr(row, name) for name in CASE_FIELDS), []).append(row)
    told = apart([group[0] for group in groups.values()])
    return [_case(group, samples, words) for group, words in zip(groups.values(), told, strict=True)]


_APART: Mapping[str, Callable[[Row], str]] = MappingProxyType(
    {
        "heads": lambda row: heads_words(row),
        "head_dim": lambda row: f"heads of {row.head_dim}",
        "text_tokens": lambda row: f"{sum(row.text_tokens)} text tokens",
        "batch": lambda row: f"batch {row.batch}",
        "direction": lambda row: DIRECTIONS[row.direction],
        "dtype": lambda row: row.dtype,
        "inputs": lambda row: f"{row.inputs} inputs",
        "model": lambda row: row.model or "no model",
        "seed": lambda row: f"seed {row.seed}",
    }
)


def apart_words(firsts: Sequence[Row], always: Sequence[str], among: Sequence[str]) -> list[list[str]]:
    """Return for each of several cases, by a row of each, facts that they always have, and those that differ.

    Args:
        firsts: a row of each.
        always: fields that are told of all.
        among: fields that are told where they are not the same in all.
    """
    differing = {name for name in among if name in _APART and len({_APART[name](row) for row in firsts}) > 1}
    names = [name for name in _APART if name in always or name in differing]
    return [[words for name in names if (words := _APART[name](row))] for row in firsts]


def heads_words(row: Row) -> str:
    """Write the heads of a row: "12 heads", "1 head", "12 on 4 heads"."""
    on = f" on {row.kv_heads}" if row.kv_heads != row.heads else ""
    return f"{row.heads}{on} head{'s' if row.heads != 1 else ''}"


def apart(firsts: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return what tells each of several cases from the others of the same grid and device, by a row of each.

    The direction is among the words where directions differ, and always if it is backward.
    """
    alike: dict[tuple[object, ...], list[Row]] = {}
    for row in firsts:
        alike.setdefault((row.grid, row.device, row.gpus, row.parallel), []).append(row)
    found = []
    for row in firsts:
        same = alike[row.grid, row.device, row.gpus, row.parallel]
        names = [name for name, words in _APART.items() if len({words(each) for each in same}) > 1]
        found.append(
            tuple(
                _APART[name](row)
                for name in _APART
                if name in names or (name == "direction" and row.direction != "fwd")
            )
        )
    return found


def _case(rows: Sequence[Row], samples: Mapping[str, Sequence[Sample]] | None, apart: tuple[str, ...]) -> Case:
    found = means_of(rows, samples)
    means = [mean.row for mean in found]
    best: dict[str, float] = {}
    for mean in means:
        best[mean.method] = min(best.get(mean.method, float("inf")), ranked_ms(mean) or float("inf"))
    names = list(best)

    def place(row: Row) -> tuple[object, ...]:
        return row.method != "full", best[row.method], names.index(row.method), row.layer

    return Case(
        tuple(sorted(rows, key=place)), tuple(sorted(means, key=place)), (), apart, speedups_of(found), rounds_of(found)
    )


def speedups_of(means: Iterable[Mean]) -> dict[str, Ratio]:
    """Return the speed-ups of means and of each of their layers, by row_id: those that methods are ranked by."""
    known = ((each.shown.row_id, each.ranked_speedup) for mean in means for each in (mean, *mean.kinds))
    return {row_id: speedup for row_id, speedup in known if speedup is not None}


def rounds_of(means: Iterable[Mean]) -> dict[str, dict[RunRound, float]]:
    """Return the times in ms of means by row_id and by the rounds that they share with others of their run."""
    return {mean.shown.row_id: rounds for mean in means if (rounds := mean.shared_rounds)}


def asked_of(row: Row) -> tuple[object, ...]:
    """Return what was asked for, whatever the run, shape and layer: method, settings, density, engine and step."""
    return row.method, row.settings_asked, row.density_asked, row.engine_asked, row.step  # layers resolve a density


def parts_below(phases: Sequence[PhaseRow]) -> list[PhaseRow]:
    """Return phases with their parts directly below them, those known best first."""
    ordered: list[PhaseRow] = []
    for phase in (p for p in phases if p.parent is None):
        ordered.append(phase)
        parts = [p for p in phases if (p.pass_, p.parent) == (phase.pass_, phase.phase)]
        ordered += sorted(parts, key=lambda p: get_args(Provenance).index(p.provenance))
    return ordered
