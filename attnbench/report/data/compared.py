"""Two runs beside each other, with the verdicts of ``compare``, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attnbench.report.comparison_words import (
    facts_words,
    names_of,
    reason_words,
    sentences,
    settings_words,
    slower_words,
    verdict_of,
    verdict_sentence,
)
from attnbench.report.data.figure import Axis, Bar, Figure
from attnbench.report.data.page import SCHEMA, PageData, method_mark
from attnbench.report.data.table import Column, Table, Value
from attnbench.report.data.tables import runs_table
from attnbench.report.source import Source
from attnbench.results.compare import CellChange, Comparison
from attnbench.results.records.cells import Cell

NAME = "comparison"
_IDENTITY = ("device", "grid", "text_tokens", "batch", "heads", "head_dim", "dtype", "direction", "inputs")
_MOST_DRAWN = 100.0
"""The largest ratio at which an interval is drawn to its end."""


def comparison_data(result: Comparison, a: Source, b: Source) -> PageData:
    """Return the data of a report on two runs: what ``compare_tables`` found, and the runs themselves."""
    runs = runs_table(
        replace(b.results, headers=(*a.results.headers, *b.results.headers)), [*a.results.runs, *b.results.runs]
    )
    devices = tuple(dict.fromkeys(row.device for row in (*a.results.rows, *b.results.rows)))
    methods = dict.fromkeys(row.method for row in (*a.results.rows, *b.results.rows))
    figure = comparison_figure(result)
    return PageData(
        SCHEMA, f"{a.paths[0]} against {b.paths[0]}", devices, tuple(map(str, (*a.paths, *b.paths))),
        tuple(map(method_mark, methods)), (), (comparison_table(result), runs), () if figure is None else (figure,),
    )  # fmt: skip


def comparison_table(result: Comparison) -> Table:
    """Return the compared cells: what each took in both runs, how much slower B is, and the verdict."""
    columns = (
        Column("name", "the shortest name that tells it from others"), Column("method", "name of the method"),
        Column("settings_given", "canonical JSON of the settings that were asked for"),
        *(Column(name, Cell.model_fields[name].description or "") for name in _IDENTITY),
        Column("speedup_a", "speed-up over the dense baseline in A"), Column("speedup_b", "the same in B"),
        Column("ratio", "how many times slower B is than A: above 1 is slower"),
        Column("ratio_lo", "lower end of its 95 % interval"), Column("ratio_hi", "upper end of its 95 % interval"),
        Column("latency_a_ms", "median latency in A", "ms"), Column("latency_b_ms", "median latency in B", "ms"),
        Column("verdict", "SLOW, FAST, SAME or AMBIGUOUS, or why the cells cannot be compared"),
        Column("regression", "whether it fails a comparison"), Column("reason", "what the verdict rests on"),
        *(
            Column(f"speedup_{side}_{end}", f"{word} end of the 95 % interval of the speed-up in {side.upper()}")
            for side in "ab" for end, word in (("lo", "lower"), ("hi", "upper"))
        ),
    )  # fmt: skip
    rows = tuple(_row(cell, name) for cell, name in zip(result.cells, names_of(result.cells), strict=True))
    return Table(NAME, "A against B", columns, rows)


def comparison_figure(result: Comparison) -> Figure | None:
    """Return by how many percent B is slower, a bar for each cell; None if no cell was compared."""
    cells = result.cells
    told = zip(cells, names_of(cells), settings_words(cells), facts_words(cells), strict=True)
    bars = tuple(
        Bar(
            line=" · ".join(filter(None, [str(cell.cell["method"]), settings, facts, verdict_of(cell)])),
            part=str(cell.cell["method"]), start=0.0, size=_percent(cell.ratio), lo=_end(cell.lo), hi=_end(cell.hi),
            label=" ".join(filter(None, [f"{name}:", *slower_words(cell), verdict_of(cell)])),
        )
        for cell, name, settings, facts in told
        if cell.ratio is not None
    )  # fmt: skip
    if not bars:
        return None
    return Figure(
        NAME, NAME, "bars", "How much slower B is than A",
        f"Above 0 B is slower. Lines are 95 % intervals. {verdict_sentence(result)}",
        "; ".join(bar.label for bar in bars), Axis("B slower than A, %", better="lower"),
        bars=bars,
    )  # fmt: skip


def comparison_words(result: Comparison) -> Sequence[str]:
    """Return the verdict, what it rests on, and what differs between the two environments."""
    return [verdict_sentence(result), *sentences(result)]


def _percent(ratio: float) -> float:
    return 100 * (ratio - 1)


def _end(ratio: float | None) -> float | None:
    return None if ratio is None else _percent(min(ratio, _MOST_DRAWN))


def _row(cell: CellChange, name: str) -> tuple[Value, ...]:
    return (
        name, str(cell.cell["method"]), _text(cell.cell.get("settings_given")),
        *(_fact(cell.cell.get(name)) for name in _IDENTITY), cell.a_speedup, cell.b_speedup,
        cell.ratio, cell.lo, cell.hi, cell.a_ms, cell.b_ms, verdict_of(cell), cell.is_regression, reason_words(cell),
        cell.a_speedup_lo, cell.a_speedup_hi, cell.b_speedup_lo, cell.b_speedup_hi,
    )  # fmt: skip


def _text(value: object) -> Value:
    return None if value is None else str(value)


def _fact(value: object) -> Value:
    """Return what was asked as a table has it; text tokens as they are typed, 0+512."""
    if isinstance(value, tuple | list):
        return "+".join(map(str, value))
    return value if isinstance(value, str | int | float) else _text(value)
