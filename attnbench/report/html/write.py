"""Write a page of results: where it goes, and how it is written as a whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from attnbench.report.formats.place import place_of
from attnbench.report.html.page import Part, make_report
from attnbench.report.source import Source
from attnbench.results.files import write_whole


@dataclass(frozen=True)
class Written:
    """A page on disk, and the words of its sections."""

    path: Path
    parts: tuple[Part, ...]


def render(source: Source, out: Path | None) -> Written:
    """Write a page of HTML that needs no network, and also return the words of its sections.

    Args:
        source: what it shows.
        out: FILE.html, or a folder; by default reports/<run>.html.

    Raises:
        BadInput: if the page cannot be written.
    """
    place = place_of(out, source.name)
    traces = {cell: os.path.relpath(trace, place.parent) for cell, trace in source.results.traces.items()}
    paths = list(map(str, source.paths))
    made = make_report(source.results, traces, source.training, paths, source.calibrations)
    return Written(write_whole(made.html.encode(), place), tuple(made.parts))
