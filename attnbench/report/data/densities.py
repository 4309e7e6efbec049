"""Density by layer and step: of cells, and of the steps that made clips."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from attnbench.report.data.figure import Axis, Figure, Heat
from attnbench.report.data.selections import Selection
from attnbench.report.gap_words import names_of
from attnbench.report.words import file_name, number
from attnbench.results.gaps import Gap
from attnbench.results.records.clips import ClipRow

_AXIS = Axis("density: share of pairs kept", least=0.0, most=1.0)


def density_figure(selection: Selection) -> Figure | None:
    """Return the density of each layer and step of a selection's methods; None if none has several."""
    cells: list[Heat] = []
    for choice in selection.choices:
        known = [row for row in choice.members if row.density is not None]
        if choice.is_dense or not known:
            continue
        for row in known:
            at = f"layer {row.layer}" + ("" if row.step is None else f", step {row.step}")
            cells.append(Heat(choice.label, at, row.density))
    if len({cell.at for cell in cells}) < 2:
        return None
    return _figure(f"density-{selection.name}", "Density by layer and step", cells, (selection.place,), "cells")


def clip_density_figures(clips: Sequence[tuple[Path, ClipRow]], gaps: Sequence[Gap]) -> list[Figure]:
    """Return the mean density of each layer while clips were made, a figure a model."""
    names = names_of(gaps)
    made: dict[str, dict[str, list[ClipRow]]] = {}
    for _, clip in clips:
        name = names.get((clip.method, clip.settings, clip.engine))
        if clip.role == "method" and name is not None and any(each is not None for each in clip.densities):
            made.setdefault(clip.model, {}).setdefault(name, []).append(clip)
    found = []
    for model, methods in made.items():
        cells = [
            Heat(name, f"layer {layer}", mean)
            for name, mine in methods.items()
            for layer in range(max(len(clip.densities) for clip in mine))
            if (mean := _mean(clip.densities[layer] for clip in mine if layer < len(clip.densities))) is not None
        ]
        title = f"Density by layer while {model} made its clips"
        found.append(_figure(file_name("density-clips", model), title, cells, (), f"clips of {model}"))
    return found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _figure(name: str, title: str, cells: list[Heat], selections: tuple[int, ...], option: str) -> Figure:
    told = "; ".join(f"{cell.line}, {cell.at}: {number(cell.value)}" for cell in cells[:30])
    return Figure(
        name, "density", "heat", title, "A stronger colour keeps more pairs.", f"{told}.", _AXIS, cells=tuple(cells),
        selections=selections, option=option,
    )  # fmt: skip
