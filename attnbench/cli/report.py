"""`attnbench report`: one HTML page from results."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.options import JsonOption

LATEST = Path("results/latest")


def report(
    path: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="A file or folder of results; default the newest run, results/latest."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE_OR_DIR", help="Where to write: FILE.html or a folder; default reports/<run>.html."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write results as one HTML page that needs no network: tables, charts, clips, training runs, mask pictures."""
    from attnbench.kernels.errors import BadInput
    from attnbench.report.html.page import make_report
    from attnbench.report.html.write import newest_run, report_path, write_report
    from attnbench.results.find import has_journals
    from attnbench.results.load import Results, read
    from attnbench.results.training import training_groups

    if path is None and not LATEST.exists():
        if LATEST.is_symlink():
            gone = f"{str(LATEST)!r} is a link to {os.readlink(LATEST)!r}, which does not exist"
        else:
            gone = f"there is no {str(LATEST)!r} here"
        raise BadInput(f"{gone}: run `attnbench run` first, or name a file or a folder of results")
    training = training_groups(path or LATEST)
    results = read(path or LATEST) if not training or has_journals(path or LATEST) else Results()
    if not results.runs and not any(group.runs for group in training):
        reasons = [reason for group in training for reason in group.left_out] or ["nothing can be shown"]
        raise BadInput(f"{str(path or LATEST)!r} holds no finished rows yet: {reasons[0]}")
    place = report_path(out, newest_run(results) if results.runs else f"training-{training[0].folder.resolve().name}")
    traces = {cell: os.path.relpath(trace, place.parent) for cell, trace in results.traces.items()}
    made = make_report(results, traces, training)
    written = write_report(made.html, place)
    if as_json:
        print(
            json.dumps({"path": str(written), "sections": list(map(dataclasses.asdict, made.parts))}, allow_nan=False)
        )
    else:
        print(written)
    if open_page:
        import webbrowser

        webbrowser.open(written.resolve().as_uri())
