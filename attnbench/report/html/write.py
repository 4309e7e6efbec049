"""Where a report goes, and how it gets there whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.report.words import file_stem
from attnbench.results.files import write_whole

if TYPE_CHECKING:
    import pandas as pd


def write_report(html: str, path: Path) -> Path:
    """Write a page; see ``write_whole``."""
    return write_whole(html.encode(), path)


def newest_run(table: pd.DataFrame) -> str:
    """Return the run_id of the run that started last; without start times, of the last row."""
    environments = table.attrs.get("environments") or {}
    runs = [str(run) for run in dict.fromkeys(table["run_id"])]
    return max(runs, key=lambda run: (str((environments.get(run) or {}).get("started_at") or ""), runs.index(run)))


def report_path(out: Path | None, run_id: str) -> Path:
    """Return the file to write: ``out`` if it ends in .html, else <run_id>.html in the folder ``out`` (reports)."""
    out = out or Path("reports")
    return out if out.suffix.lower() in (".html", ".htm") and not out.is_dir() else out / f"{file_stem(run_id)}.html"
