"""`attnbench report`: results as one HTML page, a document, a table, or figures for a paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from attnbench.cli.lists import read_names
from attnbench.cli.options import JsonOption, QuietOption
from attnbench.cli.terminal import say


def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH…]", help="Files or folders of results. Default: the newest run, results/latest."),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="html, markdown, csv, parquet, latex, json; or figures: png, svg, pdf. Default: what --out ends as, "
            "else html.",
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show two runs, A and B, with the verdicts of attnbench compare.")
    ] = False,
    table: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of csv, parquet: cells, means, phases, quality, shares, training, steps, premises, "
            "calibration, runs.",
        ),
    ] = None,
    figures: Annotated[
        list[str] | None,
        typer.Option(metavar="LIST", help="Of figures: how their names begin, as trade-off,phases. Default: all."),
    ] = None,
    width: Annotated[
        float, typer.Option("--figure-width", metavar="MM", help="Of figures: their width. Default: a column.")
    ] = 84.0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE_OR_DIR", help="Where to write: a file, or a folder. Default: reports/<run>.html and the like."
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write results as one HTML page that needs no network: tables, charts, clips, training runs, mask pictures.

    Other formats hold the same tables and verdicts: Markdown for a pull request, LaTeX, CSV and Parquet; and the same
    figures, drawn for the column of a paper.

    Exit codes: 0 fine, 2 bad input.
    """
    from attnbench.cli.progress import TerminalProgress
    from attnbench.kernels.errors import BadInput
    from attnbench.report.formats.place import form_of
    from attnbench.report.formats.write import Asked, write, write_comparison
    from attnbench.report.source import LATEST, read_source
    from attnbench.results.files import is_stream

    asked = Asked(form_of(out) if form is None else form, table, tuple(read_names("--figures", figures) or ()), width)
    if open_page and asked.form != "html":
        raise BadInput(f"--open shows a page in a browser, and {asked.form} is none: leave out --open, or --format")
    sides = [[path] for path in paths or ()] if compare else [paths or []]
    if compare and len(sides) != 2:
        raise BadInput(f"--compare shows two runs, A and B: {len(sides)} given")
    with TerminalProgress(quiet=quiet, patient=True) as progress:
        sources = []
        for number, side in enumerate(sides):
            progress.step(f"reading {' '.join(map(str, side)) or LATEST}", number, len(sides) + 1, None)
            sources.append(read_source(side))
        progress.step(f"writing {asked.form}", len(sides), len(sides) + 1, None)
        first, *others = sources
        written = write_comparison(first, others[0], out, asked) if others else write(first, out, asked)
    if as_json:
        document = {"path": str(written.paths[0]), "paths": list(map(str, written.paths)), "sections": written.sections}
        print(json.dumps(document, allow_nan=False))
    else:
        for path in written.paths:
            if not is_stream(path):
                say(path)
    if open_page:
        import webbrowser

        webbrowser.open(written.paths[0].resolve().as_uri())
