"""Measure the points of a sweep one after the other, resume an interrupted one, and read what was measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.bench import session
from attnbench.bench.sweep.points import Sweep
from attnbench.inputs.files import visible
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.results.files import write_whole
from attnbench.results.frames import frame_of
from attnbench.results.journal import JOURNAL
from attnbench.results.load import Results, read
from attnbench.results.pairs import baseline_samples
from attnbench.results.plans import SWEEP, read_plan
from attnbench.results.records.cells import Row
from attnbench.results.run import PartProgress, Progress, announce, choose_place

if TYPE_CHECKING:
    import pandas as pd


def start(sweep: Sweep, out: Path | None, progress: Progress) -> Path:
    """Measure a sweep from the beginning; return its folder, which holds one run a point.

    Args:
        out: the folder; by default results/runs/<time>-sweep, to which results/latest then points.

    Raises:
        BadInput: for a folder that cannot be used; nothing is written then.
        Unsupported: if no point can be measured.
    """
    place = choose_place(out, "-sweep")
    folder = place.folder
    held = next((path for path in (folder / SWEEP, *visible(folder.rglob("*.jsonl"))) if os.path.exists(path)), None)
    if held is not None:
        again = f", or continue with: attnbench sweep --resume {folder}" if held.name == SWEEP else ""
        raise BadInput(f"{str(folder)!r} holds {held.name} already; choose another --out{again}")
    write_whole(sweep.model_dump_json(indent=1).encode(), folder / SWEEP)
    announce(place, progress)
    _measure(sweep, folder, progress)
    return folder


def resume(folder: Path, progress: Progress) -> Sweep:
    """Finish an interrupted sweep: finished points stay, begun ones go on, the others are measured.

    Raises:
        BadInput: if there is no sweep, or a point was measured under other conditions, as ``session.resume`` says.
        Unsupported: if no point can be measured.
    """
    sweep = read_sweep(folder)
    progress.started(str(folder))
    _measure(sweep, folder, progress)
    return sweep


def read_sweep(folder: Path) -> Sweep:
    """Return the sweep that is written to ``folder``.

    Raises:
        BadInput: if there is none, or one of a newer attnbench.
    """
    return read_plan(folder, SWEEP, Sweep, "a sweep")


def load_sweep(folder: Path) -> pd.DataFrame:
    """Read the rows of a sweep, as ``load_results``, with a column more for ``break_even.curves``.

    ``baseline_samples_ms`` holds the samples of the row's dense baseline (ms, a list), None where there are none.

    Raises:
        BadInput: as ``load_results``.
    """
    return sweep_table(read(folder))


def sweep_table(found: Results) -> pd.DataFrame:
    """Return the table of ``load_sweep`` for results that were read already."""
    import pandas as pd

    table = frame_of(Row, found.rows, found.environments)
    taken = (baseline_samples(row, found.samples.get(row.run_id, ())) for row in found.rows)
    column = [[sample.cold_ms for sample in each] or None for each in taken]
    table["baseline_samples_ms"] = pd.Series(column, index=table.index, dtype=object)
    return table


def _measure(sweep: Sweep, folder: Path, progress: Progress) -> None:
    refused: list[Unsupported] = []
    for number, point in enumerate(sweep.points, 1):
        place = folder / point.name
        told = PartProgress(progress, point.name, f"point {number} of {len(sweep.points)}, {point.name}")
        try:
            if os.path.exists(place / JOURNAL):
                session.resume(place, told)
            else:
                session.start(point.request, place, told)
        except Unsupported as error:
            told.note(f"left out: {error}")
            refused.append(error)
    if len(refused) == len(sweep.points):
        raise refused[0]
