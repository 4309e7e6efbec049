"""Held-out losses of a method over training, as they are drawn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from attnbench.results.training import Checkpoint, TrainingRun

SKIPPED = 0.1
"""Share of the first steps that is not drawn, because the loss of every method falls steeply there."""


def loss_curve(runs: Sequence[TrainingRun], at: Callable[[Checkpoint], float]) -> list[tuple[float, list[float]]]:
    """Return for each checkpoint that all runs of a method have the mean place on x, and each run's mean loss.

    Args:
        runs: of one method.
        at: gives the place of a checkpoint: its step, or its seconds.
    """
    points = [
        (statistics.fmean(map(at, alike)), [statistics.fmean(checkpoint.losses) for checkpoint in alike])
        for alike in zip(*(run.checkpoints for run in runs), strict=False)
    ]
    return points[int(SKIPPED * len(points)) :]
