"""How the methods of a selection changed from run to run."""

from __future__ import annotations

from attnbench.report.data.figure import Axis, Figure, Point, Series
from attnbench.report.data.selections import Selection
from attnbench.report.words import times
from attnbench.results.history import Run


def history_figure(selection: Selection, runs: list[Run]) -> Figure | None:
    """Return the speed-up of each method over the runs that measured it; None if none was measured twice.

    Args:
        selection: of several runs.
        runs: all runs, the oldest first.
    """
    place = {run.run_id: number for number, run in enumerate(runs, 1)}
    when = {run.run_id: f"{run.date}, commit {run.commit}" for run in runs}
    series = []
    for choice, mine in selection.histories:
        points = [
            Point(place[row.run_id], row.speedup, None, None, f"{times(row.speedup)}, {when[row.run_id]}", row.row_id)
            for row in sorted(mine, key=lambda row: place[row.run_id])
            if row.speedup is not None
        ]
        if len(points) > 1 and not choice.is_dense:
            series.append(Series(choice.label, tuple(points), choice.row.method, "line"))
    if not series:
        return None
    told = "; ".join(f"{each.name} from {times(each.points[0].y)} to {times(each.points[-1].y)}" for each in series)
    return Figure(
        f"history-{selection.place}", "history", "xy", "Speed-up from run to run",
        "Runs in the order in which they were made. attnbench history finds the commits between which a level changed.",
        f"{told}.", Axis("run"), Axis("speed-up over the dense baseline, ×", better="higher"), series=tuple(series),
        selections=(selection.place,),
    )  # fmt: skip
