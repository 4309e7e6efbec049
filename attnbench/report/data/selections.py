"""Selections: what of the results may be compared, whatever run it is from, and what is the newest of it."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from attnbench.report.cases import (
    Baseline,
    Case,
    apart,
    apart_words,
    baseline_row,
    heads_words,
    labels_of,
    rounds_of,
    speedups_of,
)
from attnbench.report.clip_quality import QualityKey, quality_of
from attnbench.report.flags_read import NOTHING, Taken, taken_in
from attnbench.report.judge import Verdict, device_words, judge, place_words
from attnbench.report.traits import traits_of
from attnbench.report.words import DIRECTIONS, chosen_settings, file_name, grid_words
from attnbench.results.alike import what_ran
from attnbench.results.gaps import Gap
from attnbench.results.history import runs_of
from attnbench.results.layers import Mean, MeanRow, means_of
from attnbench.results.load import Results
from attnbench.results.records.cells import Row
from attnbench.results.speedups import Ratio, ranked_ms

SELECTED_BY = (
    "device", "model", "grid", "text_tokens", "batch", "heads", "kv_heads", "head_dim", "dtype", "direction", "inputs",
    "gpus", "parallel",
)  # fmt: skip
"""What rows of a selection share."""

SIMILAR_DENSITY = 1.1
"""Densities within this factor are called similar."""


@dataclass(frozen=True)
class Choice:
    """A method with its settings in a selection: the mean over its layers in its newest run.

    Attributes:
        cell_id: digest of what was asked, whatever the layers.
        row: the mean.
        members: the rows of its layers.
        label: the shortest name that tells it from the others of the selection.
        flags: what spoils its latency; None if its journal cannot tell.
        baseline_flags: what spoils that of its dense baseline; None without one, or if its journal cannot tell.
        speedup: with its interval; None without a latency or a dense baseline.
        quality: what clips of the same method and settings say; None without such clips.
        run_speedups: its speed-ups in the runs that measured it, the newest first; one of a single run.
        traits: what limits its error, by ``attnbench.report.traits``: "state", "untrained", both or nothing.
    """

    cell_id: str
    row: MeanRow
    members: tuple[Row, ...]
    label: str
    flags: str | None
    baseline_flags: str | None
    speedup: Ratio | None
    quality: Gap | None
    traits: str = ""
    run_speedups: tuple[float, ...] = ()

    @property
    def is_dense(self) -> bool:
        """Whether it is full attention."""
        return self.row.method == (self.row.baseline or "full").split("/")[0] or self.row.method == "full"


@dataclass(frozen=True)
class Selection:
    """Rows that share device, model, shape, number format, direction and inputs.

    Attributes:
        place: its number, from 0.
        name: a word for links and files that tells it from the others: 720p-12-heads-fwd-video.
        words: the same in words, in one line: 720p, 12 heads, forward, video inputs.
        family: likewise for all selections that differ from it by their grid alone: 12-heads-fwd-video.
        case: its newest rows and means, with the speed-ups of older ones too.
        choices: the means by latency, those without one last.
        rows: all its rows, older ones included.
        current: the row_ids of the newest rows.
        verdict: what they allow to be said.
        histories: each mean that several runs measured, as it is in each of them.
    """

    place: int
    name: str
    words: str
    family: str
    case: Case
    choices: tuple[Choice, ...]
    rows: tuple[Row, ...]
    current: frozenset[str]
    verdict: Verdict
    histories: tuple[tuple[Choice, tuple[Row, ...]], ...] = ()

    @property
    def first(self) -> Row:
        """A row from which shared fields can be read."""
        return self.rows[0]

    @property
    def shape(self) -> str:
        """The shape in words, what is asked for first: 720p, 12 heads of 128, 21×45×80 = 75,600 tokens."""
        row = self.first
        name, grid = place_words(row), grid_words(row.grid)
        parts = [grid if name.startswith(grid) else name]
        parts += [f"{heads_words(row)} of {row.head_dim}"]
        parts += [f"{row.tokens:,} tokens" if name.startswith(grid) else f"{grid} = {row.tokens:,} tokens"]
        parts += [f"of them {sum(row.text_tokens)} text"] if any(row.text_tokens) else []
        parts += [f"batch {row.batch}"] if row.batch > 1 else []
        return ", ".join(parts)

    @property
    def facets(self) -> dict[str, str]:
        """What is chosen on the page, in words."""
        row = self.first
        return {
            "device": device_words(row), "shape": self.shape, "direction": DIRECTIONS[row.direction],
            "dtype": row.dtype, "inputs": row.inputs, "model": row.model or "no model",
        }  # fmt: skip

    @cached_property
    def similar_density(self) -> tuple[tuple[Choice, ...], ...]:
        """Groups of sparse methods, two or more, whose densities are similar: the largest group first, each by time.

        Each group is the one that has most methods of those that are in none before it.
        """
        timed = [each for each in self.choices if each.speedup is not None and each.row.density and not each.is_dense]
        left = sorted(timed, key=lambda each: each.row.density or 0.0)
        groups: list[tuple[Choice, ...]] = []
        while left:
            densities = [each.row.density or 0.0 for each in left]
            ends = [bisect.bisect_right(densities, SIMILAR_DENSITY * density) for density in densities]
            group = max((left[start:end] for start, end in enumerate(ends)), key=_methods_in)
            if _methods_in(group) < 2:
                break
            groups.append(tuple(sorted(group, key=lambda each: ranked_ms(each.row) or 0.0)))
            start = left.index(group[0])
            del left[start : start + len(group)]
        return tuple(groups)


def _methods_in(group: Sequence[Choice]) -> int:
    return len({each.row.method for each in group})


@dataclass
class _Found:
    means: dict[str, list[Mean]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)


def selections_of(results: Results, quality: Mapping[QualityKey, Gap] | None = None) -> list[Selection]:
    """Return the selections of results: those with most methods and settings first, then the longest sequences.

    Of each method with its settings, the newest run that has a latency counts; without any, the newest run.

    Args:
        results: of any runs.
        quality: what clips say of methods, by ``attnbench.report.clip_quality.clip_quality``.
    """
    order = {run.run_id: place for place, run in enumerate(runs_of(results))}
    found: dict[tuple[object, ...], _Found] = {}
    for mean in means_of(results.rows, results.samples, results.missing):
        key = tuple(getattr(mean.first, name) for name in SELECTED_BY)
        mine = found.setdefault(key, _Found())
        mine.means.setdefault(mean.cell_id, []).append(mean)
        mine.rows += mean.members
    taken = taken_in(results.samples)
    ordered = sorted(found.values(), key=lambda each: (-len(each.means), -each.rows[0].tokens))
    firsts = [each.rows[0] for each in ordered]
    names, told = _names(firsts), apart(firsts)
    return [
        _selection(place, names[place], told[place], each, order, taken, quality or {})
        for place, each in enumerate(ordered)
    ]


_NAMED: Mapping[str, Callable[[Row], str]] = MappingProxyType(
    {
        "device": device_words,
        "model": lambda row: row.model or "no-model",
        "heads": lambda row: heads_words(row).replace(" ", "-"),
        "head_dim": lambda row: f"head-dim-{row.head_dim}",
        "text_tokens": lambda row: f"{sum(row.text_tokens)}-text",
        "batch": lambda row: f"batch-{row.batch}",
        "dtype": lambda row: row.dtype,
        "direction": lambda row: row.direction,
        "inputs": lambda row: row.inputs,
    }
)
_ALWAYS_NAMED = ("heads", "direction", "inputs")


def _names(firsts: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Return name, words and the name of its family for each selection, by a row of each: what differs, and more."""
    differing = [name for name in _NAMED if len({_NAMED[name](row) for row in firsts}) > 1 or name in _ALWAYS_NAMED]
    found: list[tuple[str, str, str]] = []
    taken: dict[str, int] = {}
    for row, words in zip(firsts, _words(firsts), strict=True):
        place = place_words(row)
        family = file_name(*(_NAMED[name](row) for name in differing))
        name = file_name(row.grid if "×" in place else place, family)
        taken[name] = taken.get(name, 0) + 1
        found.append((name if taken[name] == 1 else f"{name}-{taken[name]}", words, family))
    return found


def _words(firsts: Sequence[Row]) -> list[str]:
    """Return what each selection is, in words: what differs, and the shape, direction and inputs always."""
    devices = [device_words(row) for row in firsts]
    told = [*devices] if len(set(devices)) > 1 else [""] * len(firsts)
    rest = apart_words(firsts, _ALWAYS_NAMED, SELECTED_BY)
    return [
        ", ".join(filter(None, [device, place_words(row), *words]))
        for device, row, words in zip(told, firsts, rest, strict=True)
    ]


def _selection(
    place: int,
    names: tuple[str, str, str],
    told: tuple[str, ...],
    found: _Found,
    order: Mapping[str, int],
    taken: Mapping[str, Taken],
    quality: Mapping[QualityKey, Gap],
) -> Selection:
    measured = _folded(found.means.values(), order)
    newest = [same[0] for same in measured.values()]
    flags = {row.row_id: taken.get(row.run_id, NOTHING).flags(row) for mean in newest for row in mean.members}
    means = [(mean, _with_flags(mean, flags)) for mean in newest]
    means.sort(key=lambda pair: (pair[1].latency_ms is None, ranked_ms(pair[1]) or 0.0))
    rows = tuple(row.model_copy(update={"flags": flags[row.row_id]}) for mean, _ in means for row in mean.members)
    older = [
        baseline_row(row.model_copy(update={"flags": taken.get(row.run_id, NOTHING).flags(row)}))
        for row in _older_baselines(rows, found.rows)
    ]
    known = {(each.run_id, each.name) for each in [*older, *map(baseline_row, rows)]}
    beside = [
        each
        for row in rows
        if row.baseline is not None and (row.run_id, row.baseline) not in known
        and (each := _timed_beside(row, taken.get(row.run_id, NOTHING))) is not None
    ]  # fmt: skip
    speedups = speedups_of(mean for same in found.means.values() for mean in same)
    case = Case(rows, tuple(row for _, row in means), (*older, *beside), told, speedups, rounds_of(newest))
    labels = told_apart(case.means)
    choices = tuple(
        Choice(
            mean.cell_id, row, mean.members, labels[row.row_id], row.flags,
            base.flags if (base := case.baseline_of(row)) is not None else None, speedups.get(row.row_id),
            quality_of(row, quality), traits_of(row),
            tuple(ratio.value for each in measured[mean.cell_id] if (ratio := speedups.get(each.shown.row_id))),
        )
        for mean, row in means
    )  # fmt: skip
    current = frozenset(row.row_id for row in rows)
    histories = tuple(
        (choice, tuple(each.shown for each in same)) for choice in choices if len(same := measured[choice.cell_id]) > 1
    )
    return Selection(place, *names, case, choices, tuple(found.rows), current, judge(case, quality), histories)


def _folded(means: Iterable[Sequence[Mean]], order: Mapping[str, int]) -> dict[str, list[Mean]]:
    """Return means by the cell_id of the one that is shown, which comes first, and behind it those of other runs.

    The newest with a latency is shown. What ran alike in other runs is the same cell, in whatever words it was asked
    for; a run that measured it in two ways asked for both.

    Args:
        means: each asked for in the same words.
        order: places of the runs, the oldest first.
    """

    def newest_first(same: Iterable[Mean]) -> list[Mean]:
        return sorted(same, key=lambda mean: (mean.verdict != "ok", -order[mean.first.run_id]))

    found: dict[tuple[str, float | None], list[list[Mean]]] = {}
    for same in map(newest_first, means):
        alike = found.setdefault((what_ran(same[0]), same[0].first.density_asked), [])
        runs = {mean.first.run_id for mean in same}
        into = next((each for each in alike if runs.isdisjoint(mean.first.run_id for mean in each)), None)
        if into is None:
            alike.append(same)
        else:
            into[:] = newest_first([*into, *same])
    return {same[0].cell_id: same for alike in found.values() for same in alike}


def _older_baselines(rows: Sequence[Row], every: Sequence[Row]) -> list[Row]:
    """Return the timed rows of the dense baselines of rows, as far as they are not among them."""
    wanted, known = {(row.run_id, row.baseline) for row in rows}, {row.row_id for row in rows}
    return [
        row
        for row in every
        if row.row_id not in known and row.latency_ms is not None
        and (row.run_id, f"{row.method}/{row.engine}") in wanted
    ]  # fmt: skip


def _timed_beside(row: Row, taken: Taken) -> Baseline | None:
    """Return the dense baseline of a row from the samples that it took in the same rounds; None without any."""
    mine = taken.baseline_samples(row)
    if not mine or row.baseline is None:
        return None
    known = row.timer != "events" or row.baseline_eager_ms is not None or any(each.host_ms is not None for each in mine)
    times = tuple(each.cold_ms for each in mine)
    return Baseline(row.run_id, row.baseline, taken.baseline_flags(row), times, known)


def told_apart(means: Sequence[MeanRow]) -> dict[str, str]:
    """Return the shortest name of each mean; of those that ran alike, with what in their requests differs."""
    labels = labels_of(means)
    same: dict[str, list[MeanRow]] = {}
    for mean in means:
        same.setdefault(labels[mean.row_id], []).append(mean)
    for label, alike in same.items():
        if len(alike) > 1:
            asked = [
                (mean.engine_asked or "auto", chosen_settings(mean.settings_given or "{}", None) or "defaults")
                for mean in alike
            ]
            unlike = [part for part, values in enumerate(zip(*asked, strict=True)) if len(set(values)) > 1]
            for mean, words in zip(alike, asked, strict=True):
                told = ", ".join(words[part] for part in unlike)
                labels[mean.row_id] = f"{label} · asked: {told}" if told else label
    return labels


def _with_flags(mean: Mean, flags: Mapping[str, str | None]) -> MeanRow:
    """Return a mean as a row, flagged where one of its layers is."""
    known = [flags[row.row_id] for row in mean.members]
    told = dict.fromkeys(flag for each in known if each for flag in each.split(","))
    return mean.row.model_copy(update={"flags": None if not told and None in known else ",".join(told)})
