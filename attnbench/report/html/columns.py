"""The columns of the summary table: their meaning, and how a row fills them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attnbench.report.words import NONE, interval_kind, latency, number, times, tiny
from attnbench.results.flags import badges
from attnbench.results.records.cells import Row


def _no_note(row: Row) -> str:
    return ""


def _interval(row: Row) -> str:
    return f"{latency(row)[1]} {interval_kind(row)} {badges(row.flags)}".strip()


def _tolerance(row: Row) -> str:
    return (
        ""
        if row.numerical_error is None or row.numerical_tolerance is None
        else f"limit {tiny(row.numerical_tolerance)}"
    )


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: the heading.
        group: the heading over neighbouring columns.
        hint: what the figure is, in a few words.
        value: the text of a row's cell.
        note: a second, smaller text below it.
        needs_latency: whether only a row with a latency has it. Otherwise the reason is shown in its place.
        optional: whether a table leaves it out if none of its rows has a value, as on a CPU.
    """

    name: str
    group: str
    hint: str
    value: Callable[[Row], str]
    needs_latency: bool = False
    note: Callable[[Row], str] = _no_note
    optional: bool = False


COLUMNS = (
    Column("density", "work", "fraction of (query, key) pairs kept", lambda row: number(row.density)),
    Column(
        "latency, ms",
        "time",
        "median with a cold cache, and its interval",
        lambda row: latency(row)[0],
        True,
        _interval,
    ),
    Column(
        "warm, ms",
        "time",
        "median with the cache as the last call left it",
        lambda row: number(row.latency_warm_ms),
        True,
        optional=True,
    ),
    Column(
        "enqueued in, ms",
        "time",
        "what the CPU takes to enqueue the call; it runs ahead of the GPU, so the latency leaves it out",
        lambda row: number(row.host_ms),
        True,
        optional=True,
    ),
    Column("samples", "time", "timed calls with a cold cache", lambda row: str(len(row.samples_ms)), True),
    Column("speed-up", "against dense", "baseline latency / latency", lambda row: times(row.speedup), True),
    Column("translation", "against dense", "speed-up × density; 1 is ideal", lambda row: number(row.translation), True),
    Column(
        "numerical",
        "error",
        "kernel against the exact attention of the same pattern, and its tolerance",
        lambda row: tiny(row.numerical_error),
        note=_tolerance,
    ),
    Column("approximation", "error", "sparse output against full attention", lambda row: tiny(row.approximation_error)),
    Column(
        "mass recall", "error", "share of full attention's weights that is kept", lambda row: number(row.mass_recall)
    ),
    Column("extra MiB", "memory", "peak memory beyond inputs and output", lambda row: number(row.peak_extra_mib)),
)


def columns_of(rows: Sequence[Row]) -> tuple[Column, ...]:
    """Return the columns of a table of these rows."""
    return tuple(column for column in COLUMNS if not column.optional or any(column.value(row) != NONE for row in rows))
