"""Where a report goes, and how it gets there whole."""

from __future__ import annotations

from pathlib import Path

from attnbench.report.words import file_stem
from attnbench.results.files import write_whole
from attnbench.results.load import Results


def write_report(html: str, path: Path) -> Path:
    """Write a page; see ``write_whole``."""
    return write_whole(html.encode(), path)


def newest_run(results: Results) -> str:
    """Return the run_id that names a report: of rows, else of metrics of clips, the run that started last.

    A run without a start time counts as older, and of equal ones the later in order wins. Of steps alone it is the
    last one's run.
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
