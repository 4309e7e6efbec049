"""Training runs: held-out losses by steps and by seconds, and their tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from attnbench.report.data.figure import Axis, Figure, Point, Series
from attnbench.report.data.table import Column, Table
from attnbench.report.html.training import TrainingSection, training_sections
from attnbench.report.training_tables import by_method
from attnbench.results.training import Checkpoint, TrainingGroup, TrainingRun

SKIPPED = 0.1
"""Share of the first steps that is not drawn, because the loss of every method falls steeply there."""


def training_figures(groups: Sequence[TrainingGroup]) -> list[Figure]:
    """Return the held-out loss of methods: a line is the mean over a method's seeds, its band their range."""
    found = []
    for place, group in enumerate(group for group in groups if group.runs):
        methods = by_method(group.runs)
        for name, label, at in (
            ("steps", "steps on full clips", lambda checkpoint: float(checkpoint.step)),
            ("seconds", "seconds of steps on full clips", lambda checkpoint: checkpoint.seconds),
        ):
            series = tuple(_losses(method, own, at) for method, own in methods.items())
            found.append(
                Figure(
                    f"training-{place}-{name}", "training", "xy", "Held-out loss", "Lines are means over seeds, bands "
                    "their range. The first tenth of training is left out.",
                    "; ".join(
                        f"{each.name} from {each.points[0].y:.4f} to {each.points[-1].y:.4f}" for each in series
                    ) + ".",
                    Axis(label), Axis("held-out loss", log=True, better="lower"), series=series,
                    option=f"{group.folder.name}, by {name}" if len(groups) > 1 else f"by {name}",
                )
            )  # fmt: skip
    return found


def training_tables(groups: Sequence[TrainingGroup]) -> list[tuple[TrainingSection, list[Table]]]:
    """Return the sections of training in words, each with its tables."""
    found = []
    for place, section in enumerate(training_sections(groups)):
        tables = [
            Table(
                f"training-{place}-{number}", title, tuple(Column(name, name) for name in table.header),
                tuple(tuple(row) for row in table.rows),
            )
            for number, (title, table) in enumerate(section.tables)
        ]  # fmt: skip
        found.append((section, tables))
    return found


def _losses(method: str, own: Sequence[TrainingRun], at: Callable[[Checkpoint], float]) -> Series:
    points = []
    for alike in zip(*(run.checkpoints for run in own), strict=False):
        losses = [statistics.fmean(checkpoint.losses) for checkpoint in alike]
        x = statistics.fmean(at(checkpoint) for checkpoint in alike)
        ends = (min(losses), max(losses)) if len(losses) > 1 else (None, None)
        points.append(Point(x, statistics.fmean(losses), *ends))
    registered = str(own[0].card.get("training", {}).get("method") or method)
    return Series(method, tuple(points[int(SKIPPED * len(points)) :]), registered, "band")
