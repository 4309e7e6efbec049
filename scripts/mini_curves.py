"""Draw held-out losses of native training: python scripts/mini_curves.py OUT docs/native.svg

OUT is as ``mini_tables.py`` reads it. A line is the mean over a method's seeds, a band their range; the methods with
one seed are ablations and are left to the table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter
from mini_tables import Checkpoint, Run, by_method, read_runs

from attnbench.kernels.errors import AttnbenchError, BadInput
from attnbench.report.charts.latency import COLOURS, FAINT, INK

SKIPPED = 0.1
"""Share of the steps that is not drawn: the loss falls steeply there for every method alike."""


def draw(axes: Axes, runs: dict[str, list[Run]], at: Callable[[Checkpoint], float]) -> None:
    """Draw every method's loss over what ``at`` returns of a checkpoint."""
    for colour, (method, own) in zip(COLOURS, runs.items(), strict=False):
        points = [
            (
                statistics.fmean(at(checkpoint) for checkpoint in alike),
                [statistics.fmean(checkpoint.losses) for checkpoint in alike],
            )
            for alike in zip(*(run.checkpoints for run in own), strict=False)
        ]
        points = points[int(SKIPPED * len(points)) :]
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


def draw_all(folder: Path, picture: Path) -> None:
    """Draw the methods with several seeds.

    Raises:
        BadInput: if there is none, there are too many, or a run cannot be read.
    """
    runs = {method: own for method, own in by_method(read_runs(folder)).items() if len(own) > 1}
    if not runs or len(runs) > len(COLOURS):
        raise BadInput(f"{len(runs)} methods have several seeds in {str(folder)!r}; 1 to {len(COLOURS)} can be drawn")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True, layout="constrained")
    draw(left, runs, lambda checkpoint: checkpoint.step)
    draw(right, runs, lambda checkpoint: checkpoint.seconds)
    left.set(xlabel="steps on full clips", ylabel="held-out loss (logarithmic scale)")
    right.set(xlabel="seconds of steps on full clips")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(runs), frameon=False)
    plt.rcParams.update({"svg.hashsalt": "attnbench", "svg.fonttype": "path"})
    figure.savefig(picture, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    try:
        draw_all(options.folder, options.picture)
    except (AttnbenchError, OSError, ValueError) as error:  # of a folder that is not there, or a kind of file unknown
        print(f"mini_curves.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
