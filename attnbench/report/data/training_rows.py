"""The numbers of training runs as a table: what ``training_tables`` writes in words, a row a folder and method."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from attnbench.kernels.errors import BadInput
from attnbench.report.data.table import Column, Table, Value
from attnbench.report.data.trained import training_device
from attnbench.report.training_tables import (
    Runs,
    baseline_of,
    by_method,
    difference,
    limits,
    losses,
    mean_density,
    rights,
)
from attnbench.results.intervals import wilson
from attnbench.results.means import Estimate, mean_estimate
from attnbench.results.training import TrainingGroup, TrainingRun

_ENDS = "95 % over the clips"


def _with_ends(name: str, meaning: str, interval: str) -> tuple[Column, Column, Column]:
    return (
        Column(name, meaning), Column(f"{name}_lo", f"lower end of {interval}"), Column(f"{name}_hi", "upper end"),
    )  # fmt: skip


def _loss_columns(at: str) -> tuple[Column, ...]:
    """Return the columns of losses that are compared after equal ``at``, steps or seconds."""
    return (
        *_with_ends(f"loss_by_{at}", f"held-out loss after these {at}", f"its interval, {_ENDS}"),
        *_with_ends(f"gap_by_{at}", "that loss less the baseline's", f"its interval, {_ENDS}"),
    )


_COLUMNS = (
    Column("folder", "that the runs are in"),
    Column("device", "that they were trained on"),
    Column("method", "name of the method"),
    Column("engine", "that ran it"),
    Column("density", "share of pairs kept while clips are made"),
    Column("seeds", "runs of the method"),
    Column("step_ms", "median time of a step of full clips, mean over the seeds", "ms"),
    Column("peak_gib", "most memory of a step", "GiB"),
    Column("baseline", "the method that the others are compared with"),
    Column("steps", "at which losses are compared; empty where the runs have none in common"),
    *_loss_columns("steps"),
    Column("seconds", "at which losses are compared", "s"),
    Column("steps_by_seconds", "steps in that time, mean over the seeds"),
    *_loss_columns("seconds"),
    Column("clips", "clips made with the final weights and judged"),
    *(
        column
        for what in ("class", "motion")
        for column in _with_ends(
            f"{what}_right", f"of them those of the {what} that was asked for", "the share's 95 % interval, by Wilson"
        )
    ),
)


def training_table(groups: Sequence[TrainingGroup]) -> Table | None:
    """Return a row for each folder and method of training runs; None if there are no runs."""
    rows = [row for group in groups if group.runs for row in _rows(group)]
    return Table("training", "Training runs", _COLUMNS, tuple(rows)) if rows else None


def _rows(group: TrainingGroup) -> list[tuple[Value, ...]]:
    baseline = baseline_of(group.runs)
    grouped = by_method(group.runs, baseline)
    try:
        steps, seconds = limits(grouped)
    except BadInput:  # without a step in common, each run still has its cost
        return [(*_cost(group, method, own), baseline, *[None] * 15, *_right(own)) for method, own in grouped.items()]

    def by_seconds(run: TrainingRun) -> Sequence[float]:
        return run.after_seconds(seconds)[1]

    found: list[tuple[Value, ...]] = []
    for method, own in grouped.items():
        theirs = () if method == baseline else grouped[baseline]
        taken = statistics.fmean(run.after_seconds(seconds)[0] for run in own)
        found.append(
            (
                *_cost(group, method, own), baseline, steps, *_losses(own, theirs, lambda run: run.after_steps(steps)),
                seconds, taken, *_losses(own, theirs, by_seconds), *_right(own),
            )
        )  # fmt: skip
    return found


def _cost(group: TrainingGroup, method: str, own: Runs) -> tuple[Value, ...]:
    return (
        group.folder.resolve().name, training_device(group), method,
        "+".join(sorted({run.card["engine"] for run in own})), mean_density(own),
        len(own), statistics.fmean(run.step_ms for run in own), max(run.peak_mib for run in own) / 1024,
    )  # fmt: skip


def _losses(own: Runs, theirs: Runs, at: Callable[[TrainingRun], Sequence[float]]) -> tuple[Value, ...]:
    mine = losses(own, at)
    return *_ends(mean_estimate(mine)), *_ends(difference(mine, losses(theirs, at)))


def _ends(found: Estimate | None) -> tuple[Value, Value, Value]:
    return (None, None, None) if found is None else (found.mean, found.lo, found.hi)


def _right(own: Runs) -> tuple[Value, ...]:
    shares: list[Value] = []
    for what in ("class", "motion"):
        values = rights(own, what)
        right = round(sum(values.values()))
        shares += [right, *wilson(right, len(values))] if values else [None, None, None]
    return len(rights(own, "class")) or None, *shares
