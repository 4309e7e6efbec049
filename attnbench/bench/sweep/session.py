"""Measure the points of a sweep one after the other, resume an interrupted one, and read what was measured."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.bench import session
from attnbench.bench.sweep.points import Sweep
from attnbench.inputs.files import visible
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.results.files import write_whole
from attnbench.results.frames import frame_of
from attnbench.results.journal import JOURNAL
from attnbench.results.layers import rounds_of
from attnbench.results.load import Results, read
from attnbench.results.pairs import by_cell
from attnbench.results.plans import SWEEP, read_plan
from attnbench.results.records.cells import Row, Sample
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
    """Read the rows of a sweep, as ``load_results``, with two columns more for ``break_even.curves``.

    ``rounds`` holds the numbers of the rounds of ``samples_ms``, and ``baseline_samples_ms`` what the row's dense
    baseline took in them (ms, None for a round without it), None without any.

    Raises:
        BadInput: as ``load_results``.
    """
    return sweep_table(read(folder))


def sweep_table(found: Results) -> pd.DataFrame:
    """Return the table of ``load_sweep`` for results that were read already."""
    import pandas as pd

    table = frame_of(Row, found.rows, found.environments)
    taken = by_cell(found.samples)
    lines = [_by_round(row, taken.get(row.run_id, {})) for row in found.rows]
    for place, name in enumerate(("samples_ms", "rounds", "baseline_samples_ms")):
        table[name] = pd.Series([line[place] for line in lines], index=table.index, dtype=object)
    return table


def _by_round(
    row: Row, taken: Mapping[str, Sequence[Sample]]
) -> tuple[list[float], list[int], list[float | None] | None]:
    """Return the samples of a row, their rounds, and what the baseline took in them; None if no round has it."""
    own, dense = rounds_of(row, taken)
    return [*own.values()], [*own], [dense.get(number) for number in own] if dense else None


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
