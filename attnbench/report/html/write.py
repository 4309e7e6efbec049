"""Write a page of results: what is read, where the page goes, and how it is written as a whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from attnbench.kernels.errors import BadInput
from attnbench.report.html.page import Part, make_report
from attnbench.report.words import file_stem
from attnbench.results.files import write_whole
from attnbench.results.find import has_journals
from attnbench.results.load import Results, read
from attnbench.results.training import training_groups

LATEST = Path("results/latest")


@dataclass(frozen=True)
class Written:
    """A page on disk, and the words of its sections."""

    path: Path
    parts: tuple[Part, ...]


def write_report(path: str | os.PathLike[str] | None = None, out: str | os.PathLike[str] | None = None) -> Path:
    """Write results as one HTML page that needs no network, and return its path.

    Args:
        path: a file or folder of results; by default the newest run, results/latest.
        out: FILE.html, or a folder; by default reports/<run>.html.

    Raises:
        BadInput: if there are no results, or the page cannot be written.
    """
    return render(None if path is None else Path(path), None if out is None else Path(out)).path


def render(path: Path | None, out: Path | None) -> Written:
    """Write a page like ``write_report``, and also return the words of its sections.

    Raises:
        BadInput: for the same reasons as ``write_report``.
    """
    if path is None and not LATEST.exists():
        if LATEST.is_symlink():
            gone = f"{str(LATEST)!r} is a link to {os.readlink(LATEST)!r}, which does not exist"
        else:
            gone = f"there is no {str(LATEST)!r} here"
        raise BadInput(f"{gone}: run `attnbench run` first, or name a file or a folder of results")
    source = path or LATEST
    training = training_groups(source)
    results = read(source) if not training or has_journals(source) else Results()
    if not results.runs and not any(group.runs for group in training):
        reasons = [reason for group in training for reason in group.left_out] or ["nothing can be shown"]
        raise BadInput(f"{str(source)!r} holds no finished rows yet: {reasons[0]}")
    place = report_path(out, newest_run(results) if results.runs else f"training-{training[0].folder.resolve().name}")
    traces = {cell: os.path.relpath(trace, place.parent) for cell, trace in results.traces.items()}
    made = make_report(results, traces, training, [str(source)])
    return Written(write_whole(made.html.encode(), place), tuple(made.parts))


def newest_run(results: Results) -> str:
    """Return the run_id that names a report: the latest run of rows, else of metrics of clips.

    A run without a start time counts as older than others. Of runs that started at the same time, the later one in
    order counts. If there are only steps, it is the run of the last one.
    """
    records = results.rows or results.quality
    if not records:
        return results.steps[-1].run_id
    environments = results.environments
    runs = list(dict.fromkeys(record.run_id for record in records))
    return max(runs, key=lambda run: (environments[run].started_at if run in environments else "", runs.index(run)))


def report_path(out: Path | None, run_id: str) -> Path:
    """Return the file to write: ``out`` if it ends in .html, else <run_id>.html in the folder ``out`` (reports)."""
    out = out or Path("reports")
    return out if out.suffix.lower() in (".html", ".htm") and not out.is_dir() else out / f"{file_stem(run_id)}.html"
