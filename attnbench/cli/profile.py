"""`attnbench profile`: where the time of methods goes, phase by phase."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.options import (
    CellOptions,
    JsonOption,
    OutOption,
    QuietOption,
    RanksOptions,
    refuse_others,
    takes_options,
)
from attnbench.cli.ranks import over_ranks
from attnbench.cli.suite import SuiteOptions, check_only, run_suite

if TYPE_CHECKING:
    from attnbench.results.records.cells import PhaseRow, Row


@takes_options
def profile(
    ctx: typer.Context,
    asked: CellOptions,
    ranks: RanksOptions,
    suite: SuiteOptions,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Profiled calls a cell. Default: 7, on a CPU 1 to 5 by their length.")
    ] = None,
    trace: Annotated[
        bool, typer.Option("--trace/--no-trace", help="Write traces/<cell_id>.json.gz, which Perfetto opens.")
    ] = True,
    end_to_end: Annotated[
        bool,
        typer.Option("--end-to-end", help="Measure a whole step instead, as the command step does."),
    ] = False,
    checkpointing: Annotated[
        bool | None,
        typer.Option(help="End to end: run blocks forward again in the backward pass. Default: 1.3B in training."),
    ] = None,
    out: OutOption = None,
    resume: Annotated[
        Path | None, typer.Option(help="Finish the run in this folder, and profile those of its cells that are not.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure methods as run does, then profile each cell: the time of every phase, checked against the latency.

    With --end-to-end this is the command step.

    Exit codes: 0 fine, 1 a cell that is wrong, failed, crashed or hung, or no latency, 2 bad input, 130 interrupted.
    """
    from attnbench.bench.estimate import estimate
    from attnbench.bench.jobs import make_agenda
    from attnbench.bench.profile.cells import ProfileAfter
    from attnbench.bench.session import resume as resume_run
    from attnbench.bench.session import start
    from attnbench.cli.progress import TerminalProgress
    from attnbench.kernels.errors import BadInput
    from attnbench.machine.signals import exit_code as code_of
    from attnbench.results.run import exit_code

    run_suite(ctx, suite, out, resume, as_json, quiet)
    if end_to_end:
        from attnbench.cli.step import measure_and_show, step_request

        refuse_others(ctx, "--end-to-end measures a whole step", *_STEP_OPTIONS)
        measure_and_show(step_request(asked, checkpointing), out, as_json, quiet)
        return
    if checkpointing is not None:
        raise BadInput("--checkpointing is for --end-to-end")
    if resume is not None:
        kept = ("--resume", "--json", "--repeats", "--trace", "--no-trace")
        refuse_others(ctx, "--resume repeats the run as it was asked for", *kept)
    over = over_ranks(ctx, asked, ranks, out, resume, quiet=quiet, profiled=True, repeats=repeats, traces=trace)
    if over is not None:
        _show(over.folder, over.rows, list(over.phases), as_json)
        raise typer.Exit(exit_code({row.verdict for row in over.rows}))
    check_only(ctx, lambda: estimate(asked.request(), len(make_agenda(asked.request()).jobs), profiled=True))
    with TerminalProgress(quiet=quiet) as progress:
        after = ProfileAfter(progress, repeats, trace)
        try:
            if resume is not None:
                outcome = resume_run(resume, progress, after)
            else:
                outcome = start(asked.request(), out, progress, after)
        except KeyboardInterrupt as interrupt:
            progress.interrupted("profile")
            raise typer.Exit(code_of(interrupt)) from None
    _show(outcome.folder, outcome.rows, after.phases, as_json)
    verdicts = {row.verdict for row in outcome.rows}
    raise typer.Exit(exit_code(verdicts))


_STEP_OPTIONS = (
    "--end-to-end", "--checkpointing", "--no-checkpointing", "--method", "--res", "--frames", "--height", "--width",
    "--text-tokens", "--model", "--grid", "--batch", "--dtype", "--direction", "--engine", "--device", "--rounds",
    "--seed", "--set", "--out", "--json",
)  # fmt: skip


def _show(folder: Path, rows: tuple[Row, ...], phases: list[PhaseRow], as_json: bool) -> None:
    from attnbench.report.terminal.summary import summary_records, summary_table

    if as_json:
        own = [phase.model_dump(mode="json", by_alias=True) for phase in phases]
        document = {"folder": str(folder), "rows": summary_records(rows), "phases": own}
        print(json.dumps(document, allow_nan=False))
        return
    from attnbench.report.terminal.console import console
    from attnbench.report.terminal.phases import phase_tables
    from attnbench.report.terminal.ranks import ranks_table
    from attnbench.results.load import read

    out = console(120)
    out.print(summary_table(rows, read(folder).samples))
    if any(row.gpus for row in rows):
        out.print(ranks_table(rows))
    out.print(phase_tables(rows, phases))
    out.print(f"Rows, phases, traces: {folder}\nMake a page: attnbench report {folder}")
