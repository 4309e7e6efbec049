"""The summary table of a run, for the terminal and as records for JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnbench.kernels.errors import BadInput
from attnbench.report.cases import NO_ROWS, Case, cases_of
from attnbench.report.judge import judge
from attnbench.report.marks import GLYPHS, mark_of
from attnbench.report.traits import charge_words, error_words
from attnbench.report.words import (
    DIRECTIONS,
    INTERVALS,
    differing_settings,
    grid_words,
    kinds_words,
    latency,
    layer_words,
    listed,
    number,
    times,
    tiny,
)
from attnbench.results.flags import badges
from attnbench.results.layers import mean_rows
from attnbench.results.load import Results
from attnbench.results.records.cells import Row, Sample
from attnbench.results.speedups import ranked_speedup, ranked_translation

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

_MOST_NAMED = 3
_STYLES = {"ok": "green", "incorrect": "bold red", "error": "bold red"}


def summary_records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return rows as plain dictionaries without samples, in the order of ``summary_table``.

    Raises:
        BadInput: if there are no rows.
    """
    ordered = (row for case in _cases(rows) for row in case.rows)
    return [row.model_dump(mode="json", exclude={"samples_ms"}) for row in ordered]


def mean_records(results: Results) -> list[dict[str, Any]]:
    """Return the mean of each method over its layers as plain dictionaries without samples; see ``load_means``."""
    return [mean.model_dump(mode="json", exclude={"samples_ms", "layer"}) for mean in mean_rows(results)]


def summary_table(rows: Iterable[Row], samples: Mapping[str, Sequence[Sample]] | None = None) -> Table:
    """Return rows as a rich Table, one part per case, for a terminal of about 120 columns.

    In a narrower terminal the least important columns are left out, and a line below the table names them. A method
    whose layers differ has its mean above them.

    Args:
        rows: of runs.
        samples: of each run, by run_id: with them, the interval of the verdict is that of every other table.

    Raises:
        BadInput: if there are no rows.
    """
    from rich.table import Table

    grid = Table.grid(padding=(0, 0, 1, 0))
    for case in _cases(rows, samples):
        grid.add_row(_Fitted(case))
    return grid


def _cases(rows: Iterable[Row], samples: Mapping[str, Sequence[Sample]] | None = None) -> list[Case]:
    cases = cases_of(rows, samples)
    if not cases:
        raise BadInput(NO_ROWS)
    return cases


@dataclass(frozen=True)
class _Fitted:
    """A table of a case that shows as many columns as fit."""

    case: Case

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        from attnbench.report.terminal.fitted import fit, left_out_words

        names = {_SHORT.get(name, name).replace("\n", " "): name for name in _LEAST_NEEDED}
        table, left_out = fit(_case_table(self.case), tuple(names), console, options)
        yield Text(_heading(self.case), style="bold")
        yield table
        told = [names[each] for each in left_out if each != _MARK]
        notes = [left_out_words(told)] if told else []
        yield Text("\n".join([*_notes(self.case), *notes]))


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "layer": layer_words,
    "engine": lambda row: row.engine,
    "verdict": lambda row: row.verdict,
    "density": lambda row: number(row.density),
    "latency, ms": lambda row: " ".join(latency(row)).strip(),
    "speed-up": lambda row: times(ranked_speedup(row)),
    "translation": lambda row: number(ranked_translation(row)),
    "numerical error": lambda row: tiny(row.numerical_error),
    "approximation error": lambda row: tiny(row.approximation_error),
}


_SHORT = {
    "translation": "trans-\nlation",
    "numerical error": "numerical\nerror",
    "approximation error": "approx.\nerror",
}
_MARK = ""
"""Heading of the column of markers."""

_LEAST_NEEDED = ("numerical error", "translation", "engine", "approximation error", "density", _MARK)


def _case_table(case: Case) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column(_MARK, no_wrap=True)
    table.add_column("method", max_width=24, overflow="fold")
    for name in _COLUMNS:
        table.add_column(
            _SHORT.get(name, name), justify="left" if name in ("engine", "verdict") else "right", no_wrap=True
        )
    for row in case.rows_and_means:
        same = [other.settings for other in case.rows if other.method == row.method]
        settings = differing_settings(row.settings, same)
        cells = [
            Text(_COLUMNS[name](row), style=_STYLES.get(row.verdict, "yellow") if name == "verdict" else "")
            for name in _COLUMNS
        ]
        mark = mark_of(row.method)
        named = Text.assemble(row.method, (f" {settings}" if settings else "", "dim"))
        table.add_row(Text(GLYPHS[mark.marker], style=mark.light), named, *cells)
    return table


def _heading(case: Case) -> str:
    first = case.first
    text = sum(first.text_tokens)
    every = f"{first.heads} head{'s' if first.heads != 1 else ''}"
    heads = f"{case.heads_timed} of {every} timed" if case.heads_timed else every
    shape = f"{grid_words(first.grid)} = {first.tokens - text:,} tokens" + (f" + {text:,} text tokens" if text else "")
    return (
        f"{first.device} – run {first.run_id}\n"
        f"{shape}, batch {first.batch}, {heads}, head size {first.head_dim}, {first.dtype}, "
        f"{DIRECTIONS[first.direction]}, {first.inputs} inputs"
    )


def _means(case: Case) -> list[str]:
    """Return a line for each set of layers that means are over, with the methods and settings that have it."""
    alike: dict[str, dict[str, list[str]]] = {}
    for row in case.means:
        if "," in row.layers:
            methods = alike.setdefault(f"over {kinds_words(row.layers)}", {})
            methods.setdefault(row.method, []).append(case.label(row, case.means))
    found = []
    for layers, methods in alike.items():
        names = [name for method, labels in methods.items() for name in _few(method, list(dict.fromkeys(labels)))]
        found.append(f"mean of {listed(names)}: {layers}")
    return found


def _few(method: str, labels: list[str]) -> list[str]:
    return labels if len(labels) <= _MOST_NAMED else [f"{method} with {len(labels)} settings"]


def _notes(case: Case) -> list[str]:
    """Return the lines below the table: the verdict, the baseline, intervals, and why cells have no latency."""
    verdict = judge(case)
    notes = [verdict.sentence, *verdict.caveats]
    if case.baseline is not None:
        version = next((f" ({row.baseline_version})" for row in case.rows if row.baseline_version), "")
        notes.append(f"dense baseline: {case.baseline}{version}, {number(case.baseline_ms)} ms")
    notes += _means(case)
    kinds = dict.fromkeys(INTERVALS[row.interval] for row in case.timed if row.interval)
    if kinds:
        notes.append(f"latency: median with a cold cache and its interval, {' or '.join(kinds)}")
    limits = [row.numerical_tolerance for row in case.rows if row.numerical_tolerance is not None]
    if limits:
        bounds = dict.fromkeys(tiny(limit) for limit in (min(limits), max(limits)))
        notes.append(f"numerical error: against the plan in float64; rounding explains up to {' to '.join(bounds)}")
    notes += [told] if (told := charge_words((case.label(row, case.means), row) for row in case.means)) else []
    notes += [told] if (told := error_words((case.label(row, case.means), row) for row in case.means)) else []
    notes += [f"{case.label(row)}: flagged {found}" for row in case.rows if (found := badges(row.flags))]
    notes += [
        f"{case.label(row)}: {row.verdict}: {row.reason or 'no reason recorded'}"
        for row in case.rows
        if row.verdict != "ok"
    ]
    return notes
