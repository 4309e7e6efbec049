"""How many clips show what was asked for: counts of scores that are 1 or 0, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attnbench.report.data.table import Column, Table
from attnbench.report.gap_words import names_of
from attnbench.results.intervals import wilson
from attnbench.results.records.clips import QualityRow

_ROLES = ("exact", "kernel-floor", "method")


@dataclass(frozen=True)
class Share:
    """How many clips of one run, model and method are right by one metric.

    Attributes:
        run_id: the run that made the clips.
        model: the model that made them.
        metric: whose values are 1 or 0.
        name: the shortest name of the method; of full attention with its engine.
        right: clips with a 1.
        clips: all clips.
        lo, hi: ends of the 95 % interval of the share, by Wilson.
    """

    run_id: str
    model: str
    metric: str
    name: str
    right: int
    clips: int
    lo: float
    hi: float


def shares_of(rows: Sequence[QualityRow], names: Mapping[tuple[str, str, str], str]) -> list[Share]:
    """Return the shares of clips: of full attention, of another exact kernel, and of each method.

    Args:
        rows: metrics of clips.
        names: of the methods, by method, settings and engine.
    """
    values: dict[tuple[str, str, str, str], list[float]] = {}
    for role in _ROLES:
        for row in rows:
            if row.metric.endswith("_accuracy") and row.value is not None and row.role == role:
                name = names.get((row.method, row.settings, row.engine)) if role == "method" else None
                key = row.run_id, row.model, row.metric, name or f"{row.method} ({row.engine})"
                values.setdefault(key, []).append(row.value)
    return [
        Share(*key, round(sum(mine)), len(mine), *wilson(round(sum(mine)), len(mine))) for key, mine in values.items()
    ]


def shares_table(rows: Sequence[QualityRow]) -> Table | None:
    """Return the shares of all runs; None if no metric is 1 or 0."""
    found = shares_of(rows, names_of([row for row in rows if row.role == "method"]))
    columns = (
        Column("run_id", "the run that made the clips"), Column("model", "the model that made the clips"),
        Column("metric", "whose values are 1 or 0"), Column("name", "the shortest name that tells it from others"),
        Column("right", "clips with a 1"), Column("clips", "all clips"),
        Column("lo", "lower end of the 95 % interval of the share, by Wilson"),
        Column("hi", "upper end of the interval"),
    )  # fmt: skip
    lines = tuple(
        (each.run_id, each.model, each.metric, each.name, each.right, each.clips, each.lo, each.hi) for each in found
    )
    return Table("shares", "Clips that show what was asked for", columns, lines) if found else None
