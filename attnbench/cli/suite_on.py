"""``--suite FILE --on ENGINE``: the cells of a suite, measured by workers that an engine starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import typer

from attnbench.cli.suite import SuiteOptions, check_cell, end_with, refuse_held, taken
from attnbench.cli.terminal import say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from attnbench.bench.estimate import Estimate
    from attnbench.bench.suite import SuiteCell


def run_on(
    ctx: typer.Context,
    asked: SuiteOptions,
    cells: list[SuiteCell],
    folder: Path,
    *,
    resumed: bool,
    as_json: bool,
    quiet: bool,
) -> NoReturn:
    """Measure the cells by workers, and end with the worst of their exit codes; with --dry-run only say how long.

    Raises:
        BadInput: for an engine that cannot be used, a cell that cannot be measured, or a folder that is not shared.
        typer.Exit: with the exit code.
    """
    from attnbench.bench.suite_calls import begun
    from attnbench.cli.progress import TerminalProgress
    from attnbench.kernels.errors import BadInput
    from attnbench.machine.signals import exit_code
    from attnbench.scale.drive import drive
    from attnbench.scale.engines import opened
    from attnbench.scale.where import Local, read_where

    assert asked.on is not None
    assert asked.suite is not None
    settings = read_where(asked.on)
    if spread := next((cell.name for cell in cells if "--gpus" in cell.words), None):
        raise BadInput(f"cell {spread!r} is measured over several GPUs, and a worker of --on has one: leave out --on")
    if not resumed and not asked.dry_run:
        refuse_held(folder, cells)
    elsewhere = not isinstance(settings, Local)
    estimates = {
        cell.name: check_cell(ctx.find_root().command, asked.suite, cell, folder, _checked(cell) if elsewhere else None)
        for cell in cells
        if not (resumed and begun(folder / cell.name))
    }
    if asked.dry_run:
        for line in plan_lines(cells, estimates, asked.on):
            say(line)
        raise typer.Exit(0)
    known = {name: each for name, each in estimates.items() if each is not None}
    with taken(folder), opened(settings, folder) as engine, TerminalProgress(quiet=quiet) as progress:
        try:
            ended = drive(engine, cells, folder, progress, known)
        except KeyboardInterrupt as interrupt:
            again = f"attnbench {ctx.info_name} --suite {asked.suite} --on {asked.on} --resume {folder}"
            say(f"attnbench: continue with: {again}", error=True)
            raise typer.Exit(exit_code(interrupt)) from None
    end_with(folder, cells, {name: (each.exit_code, each.reason) for name, each in ended.items()}, as_json)


def _checked(cell: SuiteCell) -> Sequence[str] | None:
    """Return the options by which a cell is checked where another machine will measure it; None for all.

    This machine may have no GPU: what only a GPU can be asked is left to the worker.
    """
    import torch

    if torch.cuda.is_available():
        return None
    words: list[str] = []
    given = iter(cell.words)
    for word in given:
        if word in ("--device", "--timer"):
            next(given)
        else:
            words.append(word)
    return [*words, "--device", "cpu"]


def plan_lines(cells: list[SuiteCell], estimates: dict[str, Any], on: str) -> list[str]:
    """Return the plan of a suite: each call with its time, and the sum.

    Args:
        cells: of the suite.
        estimates: of those cells that are still to be measured, by name; None where none can be told.
        on: the engine, as typed.
    """
    from attnbench.bench.estimate import Estimate
    from attnbench.cli.progress import duration

    def words(each: Estimate) -> str:
        return f"about {duration(each.usual_s)}, at most {duration(each.most_s)}"

    lines = []
    for cell in cells:
        found = estimates.get(cell.name)
        rows = "" if found is None else f"{found.cells} row{'s' if found.cells != 1 else ''}, "
        told = "begun" if cell.name not in estimates else "time not known" if found is None else words(found)
        lines.append(f"{cell.name}: {cell.line} ({rows}{told})")
    known = [each for each in estimates.values() if each is not None]
    others = len(cells) - len(known)
    left = f", without {others} cell{'s' if others != 1 else ''} whose time is not known" if others else ""
    whole = sum(known, Estimate(0, 0.0, 0.0))
    return [*lines, f"{len(cells)} cells on {on}, one a GPU: {words(whole)} of GPU time{left}"]
