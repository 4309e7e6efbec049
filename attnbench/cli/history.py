"""``attnbench history``: cells over time, and between which commits their level changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.options import JsonOption, QuietOption
from attnbench.cli.terminal import say


def history(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of tables or runs, read recursively.")],
    threshold: Annotated[float, typer.Option(help="The least change of level that is reported: 0.03 is 3 %.")] = 0.03,
    noise: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Noise model of the device, as attnbench calibrate writes it."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Also write a page with a chart of each cell.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    r"""Show each cell over time: speed-up and latency of every run, and the commits at which their level changed.

    Change points need ruptures: pip install 'attnbench\[history]'.

    Exit codes: 0 fine, 2 bad input.
    """
    from attnbench.cli.progress import TerminalProgress
    from attnbench.kernels.errors import BadInput
    from attnbench.report.history_words import grouped, records
    from attnbench.results.history import history_of, runs_of
    from attnbench.results.load import read
    from attnbench.results.noise import find_noise

    if not 0 <= threshold < 1:
        raise BadInput(f"threshold {threshold!r} must be a fraction from 0 to below 1, as 0.03 for 3 %")
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"--out {str(out)!r} must end in .html")
    with TerminalProgress(quiet=quiet, patient=True) as progress:
        progress.step(f"reading {path}", 0, 1, None)
        results = read(path)
    if not results.rows:
        raise BadInput(f"{str(path)!r} holds no rows of cells: name a folder of attnbench run, profile or sweep")
    groups = grouped(history_of(results, threshold, lambda device, kind: find_noise(device, kind, noise)))
    written = None
    if out is not None:
        from attnbench.report.html.history import make_history
        from attnbench.results.files import write_whole

        written = write_whole(make_history(groups, runs_of(results)).encode(), out)
    if as_json:
        document = {
            "path": str(path), "threshold": threshold, "page": written and str(written), "cells": records(groups)
        }  # fmt: skip
        print(json.dumps(document, allow_nan=False))
        return
    from attnbench.report.terminal.console import console
    from attnbench.report.terminal.history import event_lines, heading, history_table

    screen, devices = console(80), list(dict.fromkeys(group.device for group in groups))
    for group in groups:
        screen.print(heading(group, devices), style="bold")
        screen.print(history_table(group))
        for line in event_lines(group):
            screen.print(line)
        screen.print()
    if written is not None:
        say(written)
