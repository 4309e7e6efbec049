"""`attnbench compare`: two latency tables of the same cells, runs of clips, or training runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.terminal import say

if TYPE_CHECKING:
    from rich.table import Table

    from attnbench.report.word_table import WordTable
    from attnbench.results.compare import CellChange, Comparison
    from attnbench.results.load import Results

_COLORS = {"broken": "red", "slower": "red", "unclear": "yellow", "faster": "green"}


def compare(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="A [B…]",
            help="Two latency tables, files or folders: A to compare with, B to judge. Or one or several runs of "
            "`attnbench clips`. Or one folder of training runs.",
        ),
    ],
    threshold: Annotated[
        float, typer.Option(help="Ratio from which a change matters: 0.03 is 3 % slower, or faster by as much.")
    ] = 0.03,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Of training runs: a method to show; repeat for several. Default: all."),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Of training runs: a seed to show; repeat for several. Default: all.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Of training runs: the method that the others are compared with. Default: full."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Of training runs: compare after so many seconds. Default: as many as all runs have."),
    ] = None,
    curves: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Of training runs: also draw the held-out losses.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Compare two latency tables cell by cell: faster, slower, the same, or unclear.

    Runs of clips are compared with full attention and with the two noise floors, training runs with those of a
    baseline, after equal steps and after equal seconds. Both print tables in Markdown.

    Exit codes: 0 fine, 1 a cell is slower or broken, 2 bad input, 3 a cell is unclear, 4 nothing comparable.
    """
    from attnbench.results.training import runs_in

    of_training = {"--method": method, "--seed": seed, "--baseline": baseline, "--seconds": seconds, "--curves": curves}
    if runs_in(paths[0]):
        tables = _training(paths, method, seed, baseline, seconds, curves)
    elif typed := [name for name, value in of_training.items() if value is not None]:
        from attnbench.kernels.errors import BadInput

        raise BadInput(f"{typed[0]} is for training runs, and {str(paths[0])!r} holds none")
    else:
        from attnbench.results.load import read

        results = [read(path) for path in paths]
        if any(found.rows for found in results) or not all(found.quality for found in results):
            raise typer.Exit(_latencies(paths, results, threshold, as_json))
        tables = _clips(paths, results)
    if as_json:
        import json

        document = {"paths": [str(path) for path in paths], "tables": [table.plain() for table in tables]}
        print(json.dumps(document, indent=2, allow_nan=False))
    else:
        say("\n\n".join("\n".join(table.markdown()) for table in tables))


def _latencies(paths: list[Path], results: list[Results], threshold: float, as_json: bool) -> int:
    """Compare two latency tables and return the exit code."""
    from attnbench.results.compare import compare_tables

    if len(paths) != 2:
        from attnbench.kernels.errors import BadInput

        raise BadInput(f"latency tables are compared in pairs, A and B: {len(paths)} given")
    result = compare_tables(results[0], results[1], threshold)
    if as_json:
        import json

        document = {"a": str(paths[0]), "b": str(paths[1]), **result.to_dict()}
        print(json.dumps(document, indent=2, allow_nan=False))
    else:
        _show(result)
    return result.exit_code


def _clips(paths: list[Path], results: list[Results]) -> list[WordTable]:
    from attnbench.report.terminal.gaps import clip_run, comparison_table

    return [comparison_table([clip_run(path, found) for path, found in zip(paths, results, strict=True)])]


def _training(
    paths: list[Path],
    methods: list[str] | None,
    seeds: list[int] | None,
    baseline: str | None,
    seconds: float | None,
    curves: Path | None,
) -> list[WordTable]:
    from attnbench.kernels.errors import BadInput
    from attnbench.report.training_tables import BASELINE, by_method, clips_table, loss_table
    from attnbench.results.training import load_training

    if len(paths) > 1:
        raise BadInput(f"training runs are compared within one folder: leave out {str(paths[1])!r}")
    if curves is not None and curves.suffix.lower() != ".svg":
        raise BadInput(f"--curves {str(curves)!r} must end in .svg")
    asked, baseline = baseline, baseline or BASELINE
    grouped = by_method(load_training(paths[0], methods, seeds), baseline)
    if asked is not None and asked not in grouped:
        raise BadInput(f"--baseline {asked!r} is not one of the methods that are compared: {', '.join(grouped)}")
    tables = [loss_table(grouped, baseline, seconds), clips_table(grouped, baseline)]
    if curves is not None:
        from attnbench.methods.draw import svg_bytes
        from attnbench.report.charts.training import training_figure
        from attnbench.results.files import write_whole

        write_whole(svg_bytes(training_figure(grouped)), curves)
    return [table for table in tables if table is not None]


def _show(result: Comparison) -> None:
    from attnbench.report.terminal.console import console

    out = console(160)
    if result.refusal is not None:
        out.print(f"Not compared: {result.refusal}.", soft_wrap=True)
        return
    if result.cells:
        out.print(_table(result))
    counts = ", ".join(f"{count} {change}" for change, count in result.counts.items()) or "no cells"
    out.print(f"{counts}; threshold {result.threshold:.1%}", soft_wrap=True)
    if result.geometric_mean is not None:
        out.print(f"geometric mean of B / A: {result.geometric_mean:.3f} (above 1 is slower)", soft_wrap=True)
    if result.exit_code == 4:
        out.print("Not compared: the two tables have no comparable cell.", soft_wrap=True)
    for change in result.environment_changes:
        out.print(f"differs  {change}", soft_wrap=True)


def _table(result: Comparison) -> Table:
    from rich.table import Table
    from rich.text import Text

    varying = _varying(result.cells)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in varying:
        table.add_column(name.replace("_", " "), overflow="fold")
    for name in ("A ms", "B ms", "B / A", "interval"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for cell in result.cells:
        identity = [Text(_text(cell.cell[name])) for name in varying]
        figures = [_number(cell.a_ms), _number(cell.b_ms), _number(cell.ratio, ".3f"), _interval(cell)]
        verdict = Text(cell.change, style=_COLORS.get(cell.change, ""))
        table.add_row(*identity, *figures, verdict, Text(cell.reason))
    return table


def _varying(cells: tuple[CellChange, ...]) -> list[str]:
    """Name the method, and what else tells the cells of this comparison apart."""
    names = [name for name in cells[0].cell if name != "device"]
    return [name for name in names if name == "method" or len({_text(cell.cell[name]) for cell in cells}) > 1]


def _text(value: object) -> str:
    return "–" if value is None else str(value)


def _number(value: float | None, form: str = ".4g") -> str:
    return "–" if value is None else format(value, form)


def _interval(cell: CellChange) -> str:
    if cell.lo is None or cell.hi is None:
        return "–"
    return f"{cell.lo:.3f} … {cell.hi:.3f}{' min-max' if cell.interval == 'min-max' else ''}"
