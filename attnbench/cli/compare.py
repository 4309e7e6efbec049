"""`attnbench compare`: two latency tables of the same cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from attnbench.results.compare import CellChange, Comparison

_COLORS = {"broken": "red", "slower": "red", "unclear": "yellow", "faster": "green"}


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Table to compare with: a file or a folder of results.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Table to judge: a file or a folder of results.")],
    threshold: Annotated[
        float, typer.Option(help="Ratio from which a change matters: 0.03 is 3 % slower, or faster by as much.")
    ] = 0.03,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Compare two latency tables cell by cell: faster, slower, the same, or unclear.

    Exit codes: 0 fine, 1 a cell is slower or broken, 2 bad input, 3 a cell is unclear, 4 nothing comparable.
    """
    from attnbench.results.compare import compare_tables
    from attnbench.results.load import load_results

    result = compare_tables(load_results(a), load_results(b), threshold)
    if as_json:
        import json

        print(json.dumps({"a": str(a), "b": str(b), **result.to_dict()}, indent=2, allow_nan=False))
    else:
        _show(result)
    raise typer.Exit(result.exit_code)


def _show(result: Comparison) -> None:
    import sys

    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    if result.refusal is not None:
        console.print(f"Not compared: {result.refusal}.", markup=False, soft_wrap=True)
        return
    if result.cells:
        console.print(_table(result))
    counts = ", ".join(f"{count} {change}" for change, count in result.counts.items()) or "no cells"
    console.print(f"{counts}; threshold {result.threshold:.1%}", markup=False, soft_wrap=True)
    if result.geometric_mean is not None:
        console.print(f"geometric mean of B / A: {result.geometric_mean:.3f} (above 1 is slower)", soft_wrap=True)
    if result.exit_code == 4:
        console.print("Not compared: the two tables have no comparable cell.", soft_wrap=True)
    for change in result.environment_changes:
        console.print(f"differs  {change}", markup=False, soft_wrap=True)


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
