"""Held-out losses of training runs, by steps and by seconds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from attnbench.report.charts.plain import FAINT, INK
from attnbench.report.marks import mark_of
from attnbench.report.training_curves import loss_curve
from attnbench.results.training import Checkpoint, TrainingRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def drawn(grouped: Mapping[str, Sequence[TrainingRun]]) -> dict[str, Sequence[TrainingRun]]:
    """Return the methods that are drawn: those with several seeds, or all if none has several.

    If others have several seeds, a method with one seed is an ablation, which only the tables show.
    """
    several = {method: own for method, own in grouped.items() if len(own) > 1}
    return several or dict(grouped)


def training_figure(grouped: Mapping[str, Sequence[TrainingRun]]) -> Figure:
    """Draw the held-out loss of methods: a line is the mean over a method's seeds, a band their range."""
    from matplotlib.figure import Figure

    runs = drawn(grouped)
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, runs, lambda checkpoint: checkpoint.step)
    _draw(right, runs, lambda checkpoint: checkpoint.seconds)
    left.set(xlabel="steps on full clips", ylabel="held-out loss (logarithmic scale)")
    right.set(xlabel="seconds of steps on full clips")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(runs), frameon=False)
    return figure


def _draw(axes: Axes, runs: Mapping[str, Sequence[TrainingRun]], at: Callable[[Checkpoint], float]) -> None:
    """Draw every method's loss over what ``at`` returns for a checkpoint."""
    from matplotlib.ticker import FormatStrFormatter

    for method, own in runs.items():
        colour = mark_of(method).light
        points = loss_curve(own, at)
        x, losses = [point for point, _ in points], [each for _, each in points]
        axes.plot(x, [statistics.fmean(each) for each in losses], color=colour, linewidth=1.8, label=method)
        axes.fill_between(
            x, [min(each) for each in losses], [max(each) for each in losses], color=colour, alpha=0.2, linewidth=0
        )
    axes.set_yscale("log")
    for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis(FormatStrFormatter("%g"))
    axes.grid(which="both", color=FAINT, linewidth=0.7)
    axes.tick_params(colors=INK)
