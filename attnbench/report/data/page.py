"""Everything that a report shows, as data: a pure function of what was read, and the same for every format."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from attnbench.kernels.errors import BadInput
from attnbench.report.cases import NO_ROWS
from attnbench.report.clip_quality import clip_quality
from attnbench.report.data.attention_maps import analysis_figures, premises_table
from attnbench.report.data.break_evens import break_even
from attnbench.report.data.calibrations import CalibrationRead, calibration_figures, calibration_table
from attnbench.report.data.clips import frame_figures, gap_figures
from attnbench.report.data.costs import memory_figure, phase_figures, roofline_figure, waterfall_figures
from attnbench.report.data.densities import clip_density_figures, density_figure
from attnbench.report.data.figure import Figure
from attnbench.report.data.frame_maps import frame_map_figures
from attnbench.report.data.histories import history_figure
from attnbench.report.data.kept_pairs import kept_figures
from attnbench.report.data.selections import Choice, Selection, selections_of
from attnbench.report.data.shares import shares_table
from attnbench.report.data.table import Table
from attnbench.report.data.tables import means_table, phases_table, quality_table, rows_table, runs_table, steps_table
from attnbench.report.data.trade_offs import trade_offs
from attnbench.report.data.trained import training_device, training_figures
from attnbench.report.data.training_rows import training_table
from attnbench.report.flag_words import FLAG_WORDS, FlagWords
from attnbench.report.judge import is_on
from attnbench.report.marks import mark_of
from attnbench.report.traits import TRAIT_WORDS, TraitWords, charge_words, error_words
from attnbench.report.words import listed, number, times
from attnbench.results.gaps import Gap, gaps
from attnbench.results.history import Run, runs_of
from attnbench.results.layers import MeanRow
from attnbench.results.load import Results
from attnbench.results.records.cells import Row, canonical_json
from attnbench.results.repro import command_line, command_of, profiled_rows
from attnbench.results.training import TrainingGroup

SCHEMA = 1
"""Version of the data: it rises when a field changes its meaning or goes away."""

_DIGITS = 7
_MOST_FLAGGED = 4
_MOST_GROUPS = 3
_NO_CLIPS = "No clips were made in these runs."
_MOST_ALIKE = 7
_AS_THEY_ARE = frozenset({str, int, bool, type(None)})


@dataclass(frozen=True)
class MethodMark:
    """How a method is drawn, everywhere.

    Attributes:
        name: the method.
        light: its colour on a light ground, #rrggbb.
        dark: its colour on a dark ground.
        marker: its shape.
    """

    name: str
    light: str
    dark: str
    marker: str


@dataclass(frozen=True)
class Chosen:
    """A selection: what the selectors choose, and what may be said of it.

    Attributes:
        place: its number; tables and figures refer to it.
        name: a word for links and files: 720p-12-heads-fwd-video.
        words: what it is in one line, with what tells it from the others: 720p, 12 heads, forward, video inputs.
        device, shape, direction, dtype, inputs, model: what is chosen, in words.
        tokens: length of the sequence.
        methods: how many methods and settings it has: the rows of the ranked table.
        cells: how many cells it has, older runs included.
        outcome: "faster", "slower" or "unclear", or why this cannot be told.
        sentence: the verdict.
        caveats: how it was measured, where that matters.
        remarks: cells without a latency.
        density: whether densities are similar, and who is fastest where they are.
        baselines: the dense baselines, with version and latency; then the runs, with their days and commits.
        trust: what spoils the latencies that the verdict rests on, the baseline's among them; then the others.
        quality: what clips of the fastest method with other settings say, where none were made with its own; whose
            model made them, if not that of the selection; or that no clips were made.
        errors: whose errors are not those that a clip would see, and why.
    """

    place: int
    name: str
    words: str
    device: str
    shape: str
    direction: str
    dtype: str
    inputs: str
    model: str
    tokens: int
    methods: int
    cells: int
    outcome: str
    sentence: str
    caveats: tuple[str, ...]
    remarks: tuple[str, ...]
    density: str
    baselines: str
    trust: str
    quality: str = ""
    errors: str = ""

    @property
    def sentences(self) -> tuple[str, ...]:
        """All that is said of it, the verdict first; some are empty."""
        notes = self.density, self.quality, self.errors, self.trust
        return (self.sentence, *self.caveats, *notes, *self.remarks)


@dataclass(frozen=True)
class PageData:
    """The data of a report.

    Attributes:
        schema: version of this structure.
        title: what the report is about.
        devices: that were measured on.
        source: files and folders that were read, as typed.
        methods: every method with its mark.
        selections: the first is shown first.
        tables: by name: means, cells, and those of the sections that there are.
        figures: of all sections.
        flags: what may spoil a latency, in words.
        traits: what may limit an error, in words.
    """

    schema: int
    title: str
    devices: tuple[str, ...]
    source: tuple[str, ...]
    methods: tuple[MethodMark, ...]
    selections: tuple[Chosen, ...]
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    flags: tuple[FlagWords, ...] = ()
    traits: tuple[TraitWords, ...] = ()

    def table(self, name: str) -> Table | None:
        """Return the table of that name, if there is one."""
        return next((table for table in self.tables if table.name == name), None)


def page_data(
    results: Results,
    training: Sequence[TrainingGroup] = (),
    source: Iterable[str] = (),
    known_gaps: Sequence[Gap] | None = None,
    calibrations: Sequence[CalibrationRead] = (),
) -> PageData:
    """Return the data of a report.

    Args:
        results: what ``attnbench.results.load.read`` returns.
        training: what ``attnbench.results.training.training_groups`` returns.
        source: what was read, as typed.
        known_gaps: those of the clips, where they were computed before.
        calibrations: what ``attnbench.report.data.calibrations.read_calibrations`` returns.

    Raises:
        BadInput: if there are neither rows nor metrics of clips nor steps nor training runs, nor measures of attention.
    """
    if not (
        results.rows or results.quality or results.steps or results.analysis or any(group.runs for group in training)
    ):
        raise BadInput(NO_ROWS)
    found = gaps(results.quality) if known_gaps is None else known_gaps
    chosen = selections_of(results, clip_quality(results, found))
    command = _commands(results)
    tables = [means_table(chosen, command), rows_table(chosen, command)] if chosen else []
    tables += [phases_table(results.phases)] if results.phases else []
    tables += [quality_table(found)] if found else []
    tables += [table for table in (shares_table(results.quality), training_table(training)) if table is not None]
    tables += [steps_table(results.steps)] if results.steps else []
    tables += [premises_table(results.premises)] if results.premises else []
    tables += [calibration_table(calibrations)] if calibrations else []
    tables += [runs_table(results, results.runs)] if results.runs else []
    devices = tuple(dict.fromkeys([*(row.device for row in results.rows), *_trained_on(training), *_ran_on(results)]))
    runs = {run.run_id: run for run in runs_of(results)}
    selections = tuple(_chosen(each, runs, "" if found else _NO_CLIPS) for each in chosen)
    figures = (*_figures(results, chosen), *_figures_on(selections, results, found, training, calibrations))
    return PageData(
        SCHEMA, f"Sparse attention on {listed(devices)}" if devices else "Sparse attention", devices, tuple(source),
        tuple(map(method_mark, _methods(results, training))), selections, tuple(tables),
        _told_apart(figures), FLAG_WORDS, TRAIT_WORDS,
    )  # fmt: skip


def to_json(data: PageData) -> str:
    """Return the data as one line of JSON, floats with seven digits, and nothing that could end a script element."""
    text = json.dumps(_plain(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind is float:
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if kind is tuple or kind is list:
        return [_plain(each) for each in value]
    if not dataclasses.is_dataclass(kind):
        return value
    return {name: _plain(each) for name, default in _defaults(kind) if (each := getattr(value, name)) != default}


@cache
def _defaults(kind: type) -> tuple[tuple[str, Any], ...]:
    return tuple((each.name, each.default) for each in dataclasses.fields(kind))


def _commands(results: Results) -> Callable[[Row], str]:
    """Return what gives the command that measures a row again."""
    headers = {header.run_id: header for header in results.headers}
    asked = {run: (canonical_json(each.request), each.environment.device_kind) for run, each in headers.items()}
    is_profiled = profiled_rows(results)
    known: dict[tuple[object, ...], str] = {}

    def command(row: Row) -> str:
        phases = is_profiled(row)
        key = row.cell_id, isinstance(row, MeanRow), phases, asked.get(row.run_id)
        if key not in known:
            known[key] = command_line(command_of(row, headers.get(row.run_id), profiled=phases))
        return known[key]

    return command


def _figures(results: Results, selections: Sequence[Selection]) -> Iterable[Figure]:
    phases, runs = results.phases_by_row, runs_of(results)
    for each in selections:
        yield from trade_offs(each)
    yield from break_even(selections)
    for each in selections:
        yield from waterfall_figures(each, phases)
        yield from phase_figures(each, phases)
        others = roofline_figure(each, phases), memory_figure(each), density_figure(each), history_figure(each, runs)
        yield from (figure for figure in others if figure is not None)
    yield from frame_map_figures(selections)


def places_on(selections: Sequence[Chosen], device: str) -> tuple[int, ...]:
    """Return the selections of a device; none if all are, or none is: what was made on it is then shown with all."""
    places = tuple(each.place for each in selections if is_on(each.device, device))
    return () if len(places) == len(selections) else places


def _figures_on(
    selections: Sequence[Chosen],
    results: Results,
    found: Sequence[Gap],
    training: Sequence[TrainingGroup],
    calibrations: Sequence[CalibrationRead],
) -> Iterable[Figure]:
    """Yield the figures that belong to a device, and not to one shape."""
    devices = {run: environment.device for run, environment in results.environments.items()}

    def each(
        items: Iterable[Any], device_of: Callable[[Any], str], make: Callable[[list[Any]], Iterable[Figure]]
    ) -> Iterable[Figure]:
        by_device: dict[str, list[Any]] = {}
        for item in items:
            by_device.setdefault(device_of(item), []).append(item)
        for device, mine in by_device.items():
            places = places_on(selections, device)
            told = [device] if len(by_device) > 1 and not places else []
            for figure in make(mine):
                option = " · ".join(filter(None, (figure.option, *told)))
                yield dataclasses.replace(figure, selections=places, option=option, device=device)

    def of_run(item: Any) -> str:
        return devices.get(item.run_id, "")

    yield from each(found, of_run, gap_figures)
    yield from each(results.quality, of_run, frame_figures)
    yield from each(results.clips, lambda clip: of_run(clip[1]), lambda clips: clip_density_figures(clips, found))
    yield from each(training, training_device, training_figures)
    yield from analysis_figures(results.analysis)
    yield from kept_figures(results.analysis)
    yield from each(calibrations, lambda calibration: calibration.model.device, calibration_figures)


def _told_apart(figures: Iterable[Figure]) -> tuple[Figure, ...]:
    """Return figures with names of their own: the second of a name is numbered, as files would overwrite each other."""
    taken: dict[str, int] = {}
    found = []
    for figure in figures:
        key = figure.name.lower()  # some file systems do not tell capitals apart
        taken[key] = taken.get(key, 0) + 1
        found.append(figure if taken[key] == 1 else dataclasses.replace(figure, name=f"{figure.name}-{taken[key]}"))
    return tuple(found)


def _chosen(selection: Selection, runs: Mapping[str, Run], no_clips: str = "") -> Chosen:
    first, verdict = selection.first, selection.verdict
    named = [(each.label, each.row) for each in selection.choices]
    baselines = " ".join(filter(None, (f"{_baselines(selection)}.", _runs(selection, runs))))
    trust = " ".join(filter(None, (_trust(selection), charge_words(named))))
    return Chosen(
        selection.place, selection.name, selection.words, **selection.facets, tokens=first.tokens,
        methods=len(selection.choices),
        cells=len(selection.rows), outcome=verdict.outcome,
        sentence=verdict.sentence, caveats=verdict.caveats, remarks=verdict.remarks, density=_density(selection),
        baselines=baselines, trust=trust, quality=verdict.elsewhere or no_clips,
        errors=error_words(named),
    )  # fmt: skip


def _density(selection: Selection) -> str:
    """Say whether methods were compared at a similar density, and who is fastest where they were."""
    known = [each for each in selection.choices if each.speedup and each.row.density and not each.is_dense]
    if len({each.row.method for each in known}) < 2:
        return ""
    densities = [each.row.density or 0.0 for each in known]
    low, high = min(densities), max(densities)
    if len(selection.similar_density) == 1 and len(selection.similar_density[0]) == len(known):
        return f"All were measured at about the same density, {number(low)} to {number(high)}."
    unequal = f"Densities differ, from {number(low)} to {number(high)}, so this ranks settings as much as methods."
    groups = selection.similar_density
    rest = [_span(group) for group in groups[_MOST_GROUPS:]]
    more = [f"{len(rest)} more group{'s' if len(rest) > 1 else ''}: density {listed(rest)}."] if rest else []
    return " ".join([unequal, *map(_similar, groups[:_MOST_GROUPS]), *more])


def _similar(group: Sequence[Choice]) -> str:
    first, *rest = [f"{each.label} {times(each.speedup.value if each.speedup else None)}" for each in group]
    more = [f"{len(rest) - _MOST_ALIKE} more"] if len(rest) > _MOST_ALIKE else []
    return f"At a similar density, {_span(group)}: {first}, then {', '.join([*rest[:_MOST_ALIKE], *more])}."


def _span(group: Sequence[Choice]) -> str:
    densities = [each.row.density or 0.0 for each in group]
    low, high = number(min(densities), 2), number(max(densities), 2)
    return low if low == high else f"{low} to {high}"


def _baselines(selection: Selection) -> str:
    found: dict[tuple[str, str], list[float]] = {}
    for each in selection.choices:
        row = each.row
        if row.baseline and row.baseline_ms:
            found.setdefault((row.baseline, row.baseline_version or ""), []).append(row.baseline_ms)
    words = []
    for (name, version), ms in found.items():
        low, high = number(min(ms)), number(max(ms))
        took = f"{low} ms" if low == high else f"{low} to {high} ms, timed anew beside each method"
        words.append(f"{name}{f' ({version})' if version else ''}, {took}")
    return "; ".join(words) or "none measured"


def _runs(selection: Selection, runs: Mapping[str, Run]) -> str:
    """Say of how many runs the rows are, of which days and commits, and how much the baseline moved between them."""
    mine = [runs[name] for name in dict.fromkeys(each.row.run_id for each in selection.choices) if name in runs]
    mine.sort(key=lambda run: run.started)
    days = listed(dict.fromkeys(run.date.split()[0] for run in mine))
    commits = list(dict.fromkeys(run.commit for run in mine))
    code = f"commit{'s' if len(commits) > 1 else ''} {listed(commits)}"
    if len(mine) < 2:
        return f"Measured on {days}, {code}." if mine else ""
    times_ms: dict[str, list[float]] = {}
    for each in selection.choices:
        if each.row.baseline and each.row.baseline_ms:
            times_ms.setdefault(each.row.baseline, []).append(each.row.baseline_ms)
    moved = max((max(ms) / min(ms) - 1 for ms in times_ms.values()), default=0.0)
    said = f"{len(mine)} runs, {days}, {code}."
    noise = (
        f"Among them the baseline alone differs by up to {moved:.1%}, so smaller differences between runs say nothing."
    )
    return f"{said} {noise}" if moved else said


def _trust(selection: Selection) -> str:
    """Say what spoils the verdict, then what spoils other latencies, and of how many it cannot be told."""
    grounds, leader = selection.verdict.grounds.sentence, selection.verdict.leader
    rested = set() if leader is None else {leader.row_id}
    dense = None if leader is None else selection.case.dense_row(leader)
    others = [
        each for each in selection.choices
        if each.row.latency_ms is not None and each.row.row_id not in rested
        and (dense is None or dense.row_id not in {row.row_id for row in each.members})
    ]  # fmt: skip
    if not others:
        return grounds
    words = []
    for flag in FLAG_WORDS:
        names = [each.label for each in others if flag.name in (each.flags or "").split(",")]
        if names:
            more = [f"{len(names) - _MOST_FLAGGED} more"] if len(names) > _MOST_FLAGGED else []
            words.append(f"{flag.meaning} for {listed([*names[:_MOST_FLAGGED], *more])}")
    unknown = sum(each.flags is None for each in others)
    if unknown:
        words.append(f"not recorded for {unknown} of {len(others)}")
    told = f"Of the others: {'; '.join(words)}." if words else "No other latency is flagged."
    return f"{grounds} {told}"


def method_mark(name: str) -> MethodMark:
    """Return how a method is drawn."""
    mark = mark_of(name)
    return MethodMark(name, mark.light, mark.dark, mark.marker)


def _methods(results: Results, training: Sequence[TrainingGroup]) -> list[str]:
    names = [row.method for row in results.rows] + [row.method for row in results.quality]
    names += [step.name.split("/")[0] for step in results.steps if "/" in step.name]
    cards: list[Mapping[str, Any]] = [run.card.get("training", {}) for group in training for run in group.runs]
    names += [str(card["method"]) for card in cards if card.get("method")]
    return list(dict.fromkeys(names))


def _trained_on(training: Sequence[TrainingGroup]) -> list[str]:
    found = [run.card.get("environment", {}).get("device") for group in training for run in group.runs]
    return [str(name) for name in found if name]


def _ran_on(results: Results) -> list[str]:
    """Return the devices of runs that left clips or steps alone; rows name theirs."""
    environments, timed = results.environments, {row.run_id for row in results.rows}
    return [environments[run].device for run in results.runs if run in environments and run not in timed]
