"""``attnbench calibrate``: how much runs differ on this machine, and how large a change comparisons find."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.lists import read_values
from attnbench.cli.options import CellOptions, JsonOption, QuietOption, refuse_others, takes_options
from attnbench.cli.terminal import say

if TYPE_CHECKING:
    from attnbench.cli.progress import TerminalProgress
    from attnbench.results.calibration import Calibration


@dataclass(frozen=True)
class CalibrateOptions(CellOptions):
    """What each run of a calibration measures."""

    res: Annotated[
        str | None, typer.Option(help="Resolution: 480p, 576p or 720p. Default: 480p; on a CPU --grid 6x12x16.")
    ] = None
    heads: Annotated[int | None, typer.Option(help="Query heads. Default: the model's; on a CPU 1.")] = None
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of timing in each run. Default: 12; in turns up to 40, as in gate.")
    ] = None
    budget: Annotated[float, typer.Option(help="Seconds for timing in each run.")] = 20.0
    stability_calls: Annotated[
        int | None,
        typer.Option(metavar="N", help="Calls of a cell on the same inputs; on a CPU, 1 leaves them out."),
    ] = 2


@takes_options
def calibrate(
    ctx: typer.Context,
    *,
    runs: Annotated[
        int,
        typer.Option(
            help="Runs without a change, at least 4; a quarter as many are made of each delay. In turns: sessions."
        ),
    ] = 40,
    delays: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST",
            help="By how many percent calls are made slower on purpose, as 1,5; may be repeated; none for no delays. "
            "Default: 1,2,3,5,10.",
        ),
    ] = None,
    asked: CalibrateOptions,
    in_turns: Annotated[
        bool | None,
        typer.Option(
            "--in-turns/--run-by-run",
            help="Measure as gate --against does: in sessions of two runs without a change and one with a delay, which "
            "take turns call by call; or one run after the other. Default: in turns on a CPU.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the calibration. Default: results/runs/<time>-calibration.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Finish the interrupted calibration in this folder.")] = None,
    install: Annotated[
        bool, typer.Option(help="Store the noise where compare and gate look for it, as well as in the folder.")
    ] = True,
    noise: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Judge by this noise. Default: each pair by that of the other runs."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables in Markdown.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how much runs differ on this machine, and how large a change comparisons find.

    The same cells are measured many times without a change, and a few times with calls that are slower by a known share
    on purpose. Runs that took turns are judged as attnbench gate --against does, others in all pairs as attnbench
    compare does. What runs differ by is stored for the device, and compare and gate reckon with it. With the defaults
    it takes about half an hour on two CPU cores.

    Exit codes: 0 fine, 2 bad input, 130 interrupted.
    """
    from attnbench.bench import calibrate as go
    from attnbench.cli.progress import TerminalProgress
    from attnbench.machine.signals import exit_code
    from attnbench.results.find import NOISE
    from attnbench.results.noise import read_noise, write_noise

    if resume is not None:
        kept = ("--resume", "--json", "--markdown", "--install", "--no-install", "--noise")
        refuse_others(ctx, "--resume repeats the calibration as it was asked for", *kept)
    known = None if noise is None else read_noise(noise)
    with TerminalProgress(quiet=quiet) as progress:
        try:
            if resume is not None:
                folder, plan = resume, go.resume(resume, progress)
            else:
                request = go.usual_case(asked.request())
                shares = _shares(delays, go.DELAYS)
                plan = go.make_plan(request, runs, shares, in_turns=go.by_default(request, in_turns))
                folder = go.start(plan, out, progress)
        except KeyboardInterrupt as interrupt:
            _interrupted(progress)
            raise typer.Exit(exit_code(interrupt)) from None
        found = go.judge_runs(plan, folder, known)
    stored = [write_noise(found.model, folder / NOISE), *([write_noise(found.model)] if install else [])]
    _show(found, folder, stored[-1], markdown, as_json)


def _interrupted(progress: TerminalProgress) -> None:
    if progress.folder is None:
        progress.note("interrupted before anything was measured")
    else:
        progress.note(f"interrupted; whole runs are kept. Go on with: attnbench calibrate --resume {progress.folder}")


def _shares(texts: list[str] | None, usual: Sequence[float]) -> list[float]:
    if texts == ["none"]:
        return []
    percents = read_values("--delays", texts or None, "1,5, or none")
    return list(usual) if percents is None else [percent / 100 for percent in percents]


def _show(found: Calibration, folder: Path, stored: Path, markdown: bool, as_json: bool) -> None:
    from attnbench.report.calibration_tables import delays_table, noise_sentence, unchanged_table

    if as_json:
        document = {
            "folder": str(folder), "stored": str(stored), "noise": found.model.model_dump(mode="json"),
            **found.to_dict(),
        }  # fmt: skip
        print(json.dumps(document, allow_nan=False))
        return
    tables = [table for table in (unchanged_table(found), delays_table(found)) if table is not None]
    if markdown:
        say("\n\n".join([noise_sentence(found.model), *("\n".join(table.markdown()) for table in tables)]))
        return
    from rich.table import Table
    from rich.text import Text

    from attnbench.report.terminal.console import console

    out = console(120)
    for words in tables:
        shown = Table(box=None, header_style="bold", pad_edge=False)
        for column, name in enumerate(words.header):
            shown.add_column(name, justify="right" if column in words.right else "left")
        for cells in words.rows:
            shown.add_row(*map(Text, cells))
        out.print(shown)
        out.print()
    say(f"{noise_sentence(found.model)}\nStored: {stored}\nRuns: {folder}")
