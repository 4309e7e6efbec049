"""The tables of a report's data: what is ranked, all cells, phases, gaps of clips, steps, and runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from attnbench.cost.waterfall import DIFFERENCES
from attnbench.report.data.selections import Choice, Selection
from attnbench.report.data.table import Column, Table, Value
from attnbench.report.gap_words import names_of
from attnbench.report.traits import traits_of
from attnbench.report.words import number, short_settings
from attnbench.results.gaps import Gap
from attnbench.results.load import Results
from attnbench.results.records.cells import Environment, PhaseRow, Record, Row
from attnbench.results.records.steps import StepRecord
from attnbench.results.speedups import ranked_ends, ranked_ms, ranked_speedup, ranked_translation

Take = Callable[[Selection, Choice], Value]
Command = Callable[[Row], str]

_COMMAND = Column("command", "the command that measures it again")

_ROW = (
    "row_id", "cell_id", "run_id", "method", "settings", "settings_given", "layer", "step", "engine", "engine_asked",
    "engine_version", "verdict", "reason", "flags", "seed", "heads_timed", "density", "latency_ms", "latency_lo_ms",
    "latency_hi_ms", "interval", "latency_warm_ms", "latency_eager_ms", "host_ms",
    "selection_ms", "refresh_ms", "refresh_every", "other_ms", "other_every", "latency_amortised_ms", "baseline",
    "baseline_ms", "speedup",
    "translation", "numerical_error", "numerical_tolerance", "approximation_error", "mass_recall", "peak_extra_mib",
)  # fmt: skip
"""Columns of ``load_results`` that the table of all cells has."""

_SPEEDUP = _ROW.index("speedup") + 1
_SPEEDUP_ENDS = (
    Column("speedup_lo", "lower end of its interval"),
    Column("speedup_hi", "upper end of its interval"),
)

_SPEEDUP_MEANS = "latency of the baseline over charged_ms"
_CHARGED = (
    Column("charged_ms", "what is ranked: latency_amortised_ms of a method with a state, else latency_ms", "ms"),
    Column("charged_lo_ms", "lower end of its interval, the refresh taken for exact", "ms"),
    Column("charged_hi_ms", "upper end of its interval", "ms"),
)

_TRAITS = Column("traits", "what limits the error: state, untrained")

_STEP_LEFT_OUT = ("phases_ms", "samples_ms", "complaint")


def means_table(selections: Sequence[Selection], command: Command) -> Table:
    """Return what is ranked: each method with its settings in a selection, as the mean over its layers.

    Args:
        selections: of the results.
        command: gives the command that measures a row again.
    """
    columns = (*(column for column, _ in _MEANS), _COMMAND)
    rows = [
        (*(take(each, choice) for _, take in _MEANS), command(choice.row))
        for each in selections
        for choice in each.choices
    ]
    return Table("means", "Methods, ranked", columns, tuple(rows))


def rows_table(selections: Sequence[Selection], command: Command) -> Table:
    """Return all cells of all runs; arguments as of ``means_table``."""
    columns = (
        Column("selection", "place of its selection in the list of selections"),
        Column("current", "whether it is of the newest run of its method and settings"),
        *_columns_of(Row, _ROW[: _SPEEDUP - 1]),
        Column("speedup", _SPEEDUP_MEANS),
        *_SPEEDUP_ENDS,
        *_columns_of(Row, _ROW[_SPEEDUP:]),
        *_CHARGED,
        Column("samples", "timed calls with a cold cache"),
        _TRAITS,
        _COMMAND,
    )
    found = []
    for each in selections:
        flags = {row.row_id: row.flags for row in each.case.rows}
        for row in each.rows:
            values = [getattr(row, name) for name in _ROW]
            values[_ROW.index("flags")] = flags.get(row.row_id, row.flags)
            values[_ROW.index("speedup")] = ranked_speedup(row)
            values[_ROW.index("translation")] = ranked_translation(row)
            ratio = each.case.speedups.get(row.row_id)
            values[_SPEEDUP:_SPEEDUP] = (None, None) if ratio is None else (ratio.lo, ratio.hi)
            more = *_charged(row), len(row.samples_ms), traits_of(row), command(row)
            found.append((each.place, row.row_id in each.current, *values, *more))
    return Table("cells", "All cells", columns, tuple(found))


def _charged(row: Row) -> tuple[float | None, float | None, float | None]:
    return ranked_ms(row), *ranked_ends(row)


def phases_table(phases: Sequence[PhaseRow]) -> Table:
    """Return the phases of cells as they were recorded."""
    names = [name for name in PhaseRow.model_fields if name not in ("run_id", "cell_id")]
    columns = _columns_of(PhaseRow, names)
    rates = ("tflops", "mfu", "mfu_probe")
    rows = tuple(
        tuple(None if name in rates and _is_difference(each) else getattr(each, name) for name in names)
        for each in phases
    )
    return Table("phases", "Phases", columns, rows)


def _is_difference(phase: PhaseRow) -> bool:
    """Whether a time is the difference of two builds: work divided by it is no rate, though older journals have one."""
    return phase.provenance == "ablated" and phase.phase in DIFFERENCES


def quality_table(gaps: Sequence[Gap]) -> Table:
    """Return what each method did to each metric of clips, with both noise floors."""
    names = names_of(gaps)
    columns = (
        Column("run_id", "the run that made the clips"), Column("model", "the model that made the clips"),
        Column("method", "name of the method"), Column("name", "the shortest name that tells it from others"),
        Column("settings", "its settings, in words"), Column("metric", "name of the metric"),
        Column("kind", "distance from full attention's clip, or score less full attention's"),
        Column("better", "which way the metric improves"), Column("unit", "of all numbers of the line"),
        Column("pairs", "prompts and seeds"), Column("gap", "mean over the pairs"),
        Column("lo", "lower end of its interval"), Column("hi", "upper end of its interval"),
        Column("kernel_floor", "the same mean for another exact kernel"), Column("kernel_lo", "lower end of the floor"),
        Column("kernel_hi", "upper end of the floor"), Column("seed_floor", "the same mean for another seed"),
        Column("judgement", "whether the gap can be told from that of another exact kernel"),
    )  # fmt: skip
    rows = tuple(
        (
            gap.run_id, gap.model, gap.method, names[gap.method, gap.settings, gap.engine],
            short_settings(gap.settings, 120), gap.metric, gap.kind, gap.better, gap.unit, gap.gap.pairs, gap.gap.mean,
            gap.gap.lo, gap.gap.hi, *_floor(gap), gap.seed_floor.mean if gap.seed_floor else None, gap.judgement,
        )
        for gap in gaps
    )  # fmt: skip
    return Table("quality", "Clips against full attention", columns, rows)


def steps_table(steps: Sequence[StepRecord]) -> Table:
    """Return whole transformer steps."""
    names = [name for name in StepRecord.model_fields if name not in _STEP_LEFT_OUT]
    columns = _columns_of(StepRecord, names)
    return Table("steps", "Whole steps", columns, tuple(tuple(getattr(each, name) for name in names) for each in steps))


def runs_table(results: Results, runs: Iterable[str]) -> Table:
    """Return where each run was measured; the first in full, and what differs from it in the others."""
    known = results.environments
    names = [name for name in Environment.model_fields if name not in ("git_changes",)]
    columns = (Column("run_id", "start of the run, UTC, and four random digits"), *_columns_of(Environment, names))
    rows = tuple((run, *(_text(getattr(known[run], name)) if run in known else None for name in names)) for run in runs)
    return Table("runs", "Runs", columns, rows)


def _columns_of(model: type[Record], names: Sequence[str]) -> tuple[Column, ...]:
    fields = model.model_fields
    return tuple(
        Column(fields[name].alias or name, fields[name].description or "", "ms" if name.endswith("_ms") else "")
        for name in names
    )


def _text(value: Any) -> Value:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in sorted(value.items()))
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _floor(gap: Gap) -> tuple[Value, Value, Value]:
    floor = gap.kernel_floor
    return (None, None, None) if floor is None else (floor.mean, floor.lo, floor.hi)


def _of_row(name: str, meaning: str = "", unit: str = "") -> tuple[Column, Take]:
    found = Row.model_fields.get(name)
    told = meaning or (found.description if found is not None else "") or ""
    return Column(name, told, unit), lambda _, choice: getattr(choice.row, name)


def _of(name: str, meaning: str, take: Take, unit: str = "") -> tuple[Column, Take]:
    return Column(name, meaning, unit), take


def _of_runs(choice: Choice) -> str:
    return ", ".join(map(number, choice.run_speedups)) if len(choice.run_speedups) > 1 else ""


def _ideal(choice: Choice) -> float | None:
    return 1 / choice.row.density if choice.row.density else None


def _psnr() -> list[tuple[Column, Take]]:
    def part(name: str) -> Take:
        return lambda _, choice: getattr(choice.quality.gap, name) if choice.quality else None

    def kernel(_: Selection, choice: Choice) -> Value:
        return choice.quality.kernel_floor.mean if choice.quality and choice.quality.kernel_floor else None

    return [
        _of(
            "psnr",
            "PSNR of clips of the same method with the same settings, defaults included",
            part("mean"),
            "dB",
        ),
        _of("psnr_lo", "lower end of its interval", part("lo"), "dB"),
        _of("psnr_hi", "upper end of its interval", part("hi"), "dB"),
        _of("psnr_model", "the model that made the clips", lambda _, c: c.quality.model if c.quality else None),
        _of("psnr_kernel", "PSNR where only the dense kernel is another one", kernel, "dB"),
    ]


_MEANS: tuple[tuple[Column, Take], ...] = (
    _of("selection", "place of its selection in the list of selections", lambda each, _: each.place),
    _of_row("row_id"),
    _of_row("run_id"),
    _of("label", "the shortest name that tells it from the others", lambda _, choice: choice.label),
    _of_row("method"),
    _of_row("settings"),
    _of_row("settings_given"),
    _of_row("engine"),
    _of_row("engine_asked"),
    _of("layers", "each kind of layer, and how many of the model's layers it stands for", lambda _, c: c.row.layers),
    _of("dense", "whether it is full attention", lambda _, choice: choice.is_dense),
    _of_row("verdict"),
    _of_row("reason"),
    _of("flags", "what spoils the latency; null if the journal cannot tell", lambda _, choice: choice.flags),
    _of("traits", _TRAITS.meaning, lambda _, choice: choice.traits),
    _of_row("density"),
    _of("speedup", _SPEEDUP_MEANS, lambda _, c: c.speedup.value if c.speedup else ranked_speedup(c.row)),
    (_SPEEDUP_ENDS[0], lambda _, choice: choice.speedup.lo if choice.speedup else None),
    (_SPEEDUP_ENDS[1], lambda _, choice: choice.speedup.hi if choice.speedup else None),
    _of("run_speedups", "speed-ups in all runs that measured it, the newest first", lambda _, c: _of_runs(c)),
    _of("ideal", "speed-up that its density allows: 1 / density", lambda _, choice: _ideal(choice)),
    _of("translation", "speedup x density", lambda _, choice: ranked_translation(choice.row)),
    *((column, lambda _, choice, at=at: _charged(choice.row)[at]) for at, column in enumerate(_CHARGED)),
    _of_row("latency_ms", unit="ms"),
    _of_row("latency_lo_ms", unit="ms"),
    _of_row("latency_hi_ms", unit="ms"),
    _of_row("interval"),
    _of_row("latency_eager_ms", unit="ms"),
    _of_row("host_ms", unit="ms"),
    _of_row("selection_ms", unit="ms"),
    _of_row("refresh_ms", unit="ms"),
    _of_row("refresh_every"),
    _of_row("other_ms", unit="ms"),
    _of_row("other_every"),
    _of_row("latency_amortised_ms", unit="ms"),
    _of_row("step"),
    _of_row("baseline"),
    _of_row("baseline_ms", unit="ms"),
    _of("baseline_flags", "what spoils the latency of the baseline; null if unknown", lambda _, c: c.baseline_flags),
    _of_row("approximation_error"),
    _of_row("mass_recall"),
    _of_row("numerical_error"),
    _of_row("numerical_tolerance"),
    _of_row("peak_extra_mib", unit="MiB"),
    _of("samples", "rounds that the latency rests on", lambda _, c: len(c.row.samples_ms)),
    _of_row("heads_timed"),
    *_psnr(),
)  # fmt: skip
