"""`attnbench report`: one HTML page from results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.options import JsonOption
from attnbench.cli.terminal import say


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
    from attnbench.report.html.write import render

    written = render(path, out)
    if as_json:
        print(
            json.dumps(
                {"path": str(written.path), "sections": list(map(dataclasses.asdict, written.parts))}, allow_nan=False
            )
        )
    else:
        say(written.path)
    if open_page:
        import webbrowser

        webbrowser.open(written.path.resolve().as_uri())
