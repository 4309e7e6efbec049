"""How the methods of a selection changed from run to run."""

from __future__ import annotations

from attnbench.report.data.figure import Axis, Figure, Point, Series
from attnbench.report.data.selections import Selection
from attnbench.report.words import times
from attnbench.results.history import Run
from attnbench.results.speedups import ranked_speedup


def history_figure(selection: Selection, runs: list[Run]) -> Figure | None:
    """Return the speed-up of each method over the runs that measured it; None if none was measured twice.

    Args:
        selection: of several runs.
        runs: all runs, the oldest first.
    """
    sparse = [mine for choice, mine in selection.histories if not choice.is_dense]
    seen = {row.run_id for mine in sparse for row in mine if ranked_speedup(row) is not None}
    ordered = [run for run in runs if run.run_id in seen]
    place = {run.run_id: number for number, run in enumerate(ordered, 1)}
    when = {run.run_id: f"{run.date}, commit {run.commit}" for run in runs}
    series = []
    for choice, mine in selection.histories:
        points = [
            Point(place[row.run_id], value, None, None, f"{times(value)}, {when[row.run_id]}", row.row_id)
            for row in sorted(mine, key=lambda row: place.get(row.run_id, 0))
            if (value := ranked_speedup(row)) is not None and row.run_id in place
        ]
        if len(points) > 1 and not choice.is_dense:
            series.append(Series(choice.label, tuple(points), choice.row.method, "line"))
    if not series:
        return None
    ticks = tuple((float(place[run.run_id]), f"{run.date.split()[0]} {run.commit}") for run in ordered)
    told = "; ".join(f"{each.name} from {times(each.points[0].y)} to {times(each.points[-1].y)}" for each in series)
    return Figure(
        f"history-{selection.name}", "history", "xy", "Speed-up from run to run",
        "Runs in the order in which they were made. attnbench history finds the commits between which a level changed.",
        f"{told}.", Axis("run: its day and commit", ticks=ticks),
        Axis("speed-up over the dense baseline, ×", better="higher"), series=tuple(series),
        selections=(selection.place,),
    )  # fmt: skip
