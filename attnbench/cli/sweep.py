"""``attnbench sweep``: the curve of a method over tokens, frames or density, and where it begins to beat dense."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.lists import read_values
from attnbench.cli.options import (
    CellOptions,
    JsonOption,
    QuietOption,
    refuse_others,
    takes_options,
)
from attnbench.cli.suite import SuiteOptions, check_only, run_suite

if TYPE_CHECKING:
    from attnbench.bench.sweep.points import Sweep
    from attnbench.results.run import Progress

PICTURE = "curve.svg"


@dataclass(frozen=True)
class SweepOptions(CellOptions):
    """What the points of a sweep share."""

    res: Annotated[
        str | None, typer.Option(help="Resolution whose proportions to take: 480p, 576p or 720p. Default: 480p.")
    ] = None
    heads: Annotated[int | None, typer.Option(help="Query heads. Default: the model's; on a CPU 1.")] = None
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of timing a point. Default: 3 to 20, as the budget allows.")
    ] = None
    budget: Annotated[float, typer.Option(help="Seconds for each point; three rounds are made in any case.")] = 20.0


@takes_options
def sweep(
    ctx: typer.Context,
    *,
    over: Annotated[str | None, typer.Option(help="What is varied: tokens, density or frames.")] = None,
    asked: SweepOptions,
    suite: SuiteOptions,
    points: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST",
            help="The points, as 4000,8000,16000: tokens, frames (4k+1) or densities; may be repeated.",
        ),
    ] = None,
    low: Annotated[float | None, typer.Option("--from", help="The smallest point, where they are not listed.")] = None,
    high: Annotated[float | None, typer.Option("--to", help="The largest point.")] = None,
    count: Annotated[int | None, typer.Option(help="How many points from the one to the other. Default: 5.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the sweep. Default: results/runs/<time>-sweep.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Finish the interrupted sweep in this folder.")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a curve: speed-up and translation over tokens, frames or density, and where dense is beaten.

    Exit codes: 0 fine, 1 a cell that is wrong, failed, crashed or hung, or no latency, 2 bad input, 130 interrupted.
    """
    from attnbench.bench.estimate import estimate_of
    from attnbench.bench.sweep import session as go
    from attnbench.bench.sweep.points import OVERS, default_methods, make_sweep
    from attnbench.cli.progress import TerminalProgress
    from attnbench.kernels.errors import BadInput
    from attnbench.machine.signals import exit_code as code_of
    from attnbench.methods.registry import ALL
    from attnbench.results.run import exit_code

    run_suite(ctx, suite, out, resume, as_json, quiet)
    if resume is not None:
        refuse_others(ctx, "--resume repeats the sweep as it was asked for", "--resume", "--json")
    elif over is None:
        raise BadInput(f"--over is missing: give what to vary, one of {', '.join(OVERS)}")

    def asked_sweep() -> Sweep:
        every = asked.method == [ALL]  # those that cannot be varied are left out, where they are not named
        named = replace(asked, method=None) if every else asked
        request = named.request(default_methods(over or "", every))
        values = read_values("--points", points, "4000,8000,16000")
        return make_sweep(over or "", request, values=values, low=low, high=high, count=count)

    check_only(ctx, lambda: estimate_of(asked_sweep()))
    with TerminalProgress(quiet=quiet) as progress:
        try:
            if resume is not None:
                folder, made = resume, go.resume(resume, progress)
            else:
                made = asked_sweep()
                folder = go.start(made, out, progress)
        except KeyboardInterrupt as interrupt:
            _interrupted(progress, progress.folder)
            raise typer.Exit(code_of(interrupt)) from None
    verdicts = _show(made, folder, as_json)
    raise typer.Exit(exit_code(verdicts))


def _interrupted(progress: Progress, folder: str | None) -> None:
    if folder is None:
        progress.note("interrupted before anything was measured")
    else:
        progress.note(f"interrupted; every sample so far is kept. Go on with: attnbench sweep --resume {folder}")


def _show(made: Sweep, folder: Path, as_json: bool) -> set[str]:
    """Print the curves and write the picture; return the verdicts of all cells."""
    from attnbench.bench.sweep.session import sweep_table
    from attnbench.methods.draw import svg_bytes
    from attnbench.report.charts.curve import curve_figure
    from attnbench.report.curve_words import notes, sentence, shown, wall_clock_sentence
    from attnbench.report.terminal.curves import curve_table, records
    from attnbench.report.terminal.summary import summary_records
    from attnbench.results.break_even import curves
    from attnbench.results.files import write_whole
    from attnbench.results.load import read

    measured = read(folder)
    found = curves(sweep_table(measured), "density" if made.over == "density" else "tokens")
    first = measured.rows[0]
    heads = f"{first.heads} head{'s' if first.heads > 1 else ''} of {first.head_dim}"
    figure = curve_figure(found, f"{first.device}: {heads}, {first.dtype}, {first.direction}")
    picture = None if figure is None else str(write_whole(svg_bytes(figure), folder / PICTURE))
    if as_json:
        document = {
            "folder": str(folder), "over": made.over, "picture": picture, "curves": records(found, made.over),
            "notes": notes(found), "rows": summary_records(measured.rows),
        }  # fmt: skip
        print(json.dumps(document, allow_nan=False))
        return {row.verdict for row in measured.rows}
    from attnbench.report.terminal.console import console

    out = console(120)
    for curve in shown(found):
        out.print(curve_table(curve))
    eager = [said for curve in found if (said := wall_clock_sentence(curve, made.over))]
    for line in [*(sentence(curve, made.over) for curve in found), *eager, "", *notes(found)]:
        out.print(line, soft_wrap=True)
    drawn = "" if picture is None else f"\nPicture: {picture}"
    out.print(f"Rows, samples, environment: {folder}{drawn}", soft_wrap=True)
    return {row.verdict for row in measured.rows}
