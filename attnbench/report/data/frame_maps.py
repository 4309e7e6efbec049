"""What cells really kept, as maps over frames: one for each method, with its settings, and layer."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from attnbench.report.data.figure import Axis, Figure, Strip
from attnbench.report.data.selections import Selection
from attnbench.report.words import file_name, number
from attnbench.results.records.cells import frame_map_of

MOST_VALUES = 60_000
"""Values of all maps of a report: some 400 KB, or 136 maps of 21 frames."""

_AXIS = Axis("share of pairs kept", least=0.0, most=1.0)


def frame_map_figures(selections: Sequence[Selection]) -> Iterable[Figure]:
    """Yield the maps of all sparse methods whose rows have one, as many as have ``MOST_VALUES`` values together."""
    left = MOST_VALUES
    for selection in selections:
        found = [
            (choice.label, row.layer, row.step, lines)
            for choice in selection.choices
            if not choice.is_dense
            for row in choice.members
            if row.kept_by_frame is not None and (lines := frame_map_of(row.kept_by_frame))
        ]
        for label, layer, step, lines in found:
            left -= len(lines) ** 2
            if left < 0:
                return
            at = f"layer {layer}" + ("" if step is None else f", step {step}")
            name = file_name("masks", selection.name, label, at)
            yield _figure(name, f"{label}, {at}", lines, selection.place)


def _figure(name: str, what: str, lines: list[list[int]], selection: int) -> Figure:
    frames = range(len(lines))
    own = statistics.fmean(lines[t][t] for t in frames) / 1000
    first = statistics.fmean(line[0] for line in lines) / 1000
    every = statistics.fmean(value for line in lines for value in line) / 1000
    words = f"{what}: {number(every)} of all pairs, {number(own)} within a frame, {number(first)} with the first frame."
    return Figure(
        name, "masks", "heat", f"What {what} kept when it was measured",
        "Lines are frames of queries, columns are frames of keys. A stronger colour keeps more pairs; mean over heads.",
        words, _AXIS, selections=(selection,), option=what, places=tuple(f"key {t}" for t in frames),
        strips=tuple(
            Strip(f"query {t}", tuple(value / 1000 for value in line)) for t, line in enumerate(lines)
        ),
    )  # fmt: skip
