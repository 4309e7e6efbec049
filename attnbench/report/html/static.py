"""What the page shows before its script runs, and where none runs: the first rows, the selection, and the runs."""

from __future__ import annotations

from dataclasses import dataclass

from attnbench.report.data.page import PageData
from attnbench.report.data.table import Value
from attnbench.report.words import NONE, number, runs_words, steady_words, times, tiny, with_interval
from attnbench.results.flags import badges

FIRST_ROWS = 20
"""Rows of the ranked table that stand in the page itself."""


@dataclass(frozen=True)
class StaticRow:
    """A row of the ranked table in words: the method, its engine where the label does not say it, and a text and a
    small note a column."""

    method: str
    label: str
    engine: str
    cells: tuple[tuple[str, str], ...]


HEADINGS = ("speed-up", "ms", "density", "trust", "ideal", "error", "recall", "baseline")


@dataclass(frozen=True)
class RunFacts:
    """A run: its name, and what is known of it; of later runs only what differs from the first."""

    run: str
    facts: tuple[tuple[str, str], ...]


def first_rows(data: PageData) -> list[StaticRow]:
    """Return the first rows of the first selection."""
    table = data.table("means")
    found: list[StaticRow] = []
    for record in table.records() if table else ():
        if record["selection"] == 0 and len(found) < FIRST_ROWS:
            found.append(_row(record))
    return found


def facets_of(data: PageData) -> list[tuple[str, str]]:
    """Return what is selected first, by name."""
    if not data.selections:
        return []
    first = data.selections[0]
    names = ("device", "shape", "direction", "dtype", "inputs", "model")
    return [(name, getattr(first, name)) for name in names]


def runs_of_page(data: PageData) -> list[RunFacts]:
    """Return the runs: the first in full, of the others what differs from it."""
    table = data.table("runs")
    if table is None:
        return []
    runs: list[RunFacts] = []
    first: dict[str, str] = {}
    for record in table.records():
        run = str(record.pop("run_id"))
        known = {name: _text(name, value) for name, value in record.items()}
        kept = {name: text for name, text in known.items() if text and (not first or first.get(name) != text)}
        first = first or known
        facts = tuple((name.replace("_gib", ", GiB").replace("_", " "), text) for name, text in kept.items())
        runs.append(RunFacts(run, facts or (("environment", "not recorded" if not runs else "as the first"),)))
    return runs


def _text(name: str, value: Value) -> str:
    if name == "git_dirty":
        return "with uncommitted changes" if value else ""
    if isinstance(value, float):
        return number(value)
    return "" if value in (None, NONE) else str(value)


def _engine(record: dict[str, Value]) -> str:
    engine = str(record["engine"] or "")
    return "" if engine in str(record["label"]).split(" · ") else engine


def _row(record: dict[str, Value]) -> StaticRow:
    def of(name: str) -> float | None:
        value = record[name]
        return float(value) if isinstance(value, int | float) else None

    def interval(name: str, low: str, high: str, unit: str = "") -> tuple[str, str]:
        value = of(name)
        if value is None:
            return NONE, ""
        main, ends = with_interval(value, of(low), of(high))
        return f"{main}{unit}", ends

    verdict, flags = str(record["verdict"]), str(record["flags"] or "")
    traits = str(record["traits"] or "").replace(",", ", ")
    words = ("verified", badges(flags), traits) if verdict == "ok" else (verdict, str(record["reason"]))
    told = " ".join(filter(None, words))
    ratio, ends_of_ratio = interval("speedup", "speedup_lo", "speedup_hi", "×")
    base = str(record["baseline"] or NONE) + (f" {number(of('baseline_ms'))}" if record["baseline_ms"] else "")
    took, ends = interval("charged_ms", "charged_lo_ms", "charged_hi_ms")
    return StaticRow(
        str(record["method"]), str(record["label"]), _engine(record),
        (
            (ratio, ", ".join(filter(None, (ends_of_ratio, runs_words(record["run_speedups"]))))),
            (took, ", ".join(filter(None, (ends, steady_words(of("latency_ms"), of("refresh_ms")))))),
            (number(of("density")), ""), (told, ""), (times(of("ideal")), ""), (tiny(of("approximation_error")), ""),
            (number(of("mass_recall")), ""), (base, ""),
        ),
    )  # fmt: skip
