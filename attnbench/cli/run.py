"""``attnbench run``: verify, time and journal methods on a shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from attnbench.cli.options import (
    CellOptions,
    JsonOption,
    OutOption,
    QuietOption,
    RanksOptions,
    ResumeOption,
    refuse_others,
    takes_options,
)
from attnbench.cli.ranks import over_ranks
from attnbench.cli.suite import SuiteOptions, check_only, run_suite

if TYPE_CHECKING:
    from attnbench.results.records.cells import Row


@takes_options
def run(
    ctx: typer.Context,
    asked: CellOptions,
    ranks: RanksOptions,
    suite: SuiteOptions,
    out: OutOption = None,
    resume: ResumeOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure methods: verify each against the oracle, time it beside the dense baseline, journal the rows.

    Exit codes: 0 fine, 1 a cell that is wrong, failed, crashed or hung, or no latency, 2 bad input, 130 interrupted.
    """
    from attnbench.bench.apart.cells import check_request
    from attnbench.bench.estimate import estimate
    from attnbench.bench.session import resume as resume_run
    from attnbench.bench.session import start
    from attnbench.cli.progress import TerminalProgress
    from attnbench.machine.signals import exit_code as code_of
    from attnbench.results.run import exit_code

    run_suite(ctx, suite, out, resume, as_json, quiet)
    if resume is not None:
        refuse_others(ctx, "--resume repeats the run as it was asked for", "--resume", "--json")
    if over := over_ranks(ctx, asked, ranks, out, resume, quiet=quiet):
        _show(over.folder, over.rows, as_json)
        raise typer.Exit(exit_code({row.verdict for row in over.rows}))
    check_only(ctx, lambda: estimate(asked.request(), check_request(asked.request())))
    with TerminalProgress(quiet=quiet) as progress:
        try:
            outcome = resume_run(resume, progress) if resume is not None else start(asked.request(), out, progress)
        except KeyboardInterrupt as interrupt:
            progress.interrupted()
            raise typer.Exit(code_of(interrupt)) from None
    _show(outcome.folder, outcome.rows, as_json)
    verdicts = {row.verdict for row in outcome.rows}
    raise typer.Exit(exit_code(verdicts))


def _show(folder: Path, rows: tuple[Row, ...], as_json: bool) -> None:
    from attnbench.report.terminal.ranks import ranks_table
    from attnbench.report.terminal.summary import mean_records, summary_records, summary_table
    from attnbench.results.load import read

    found = read(folder)
    if as_json:
        document = {"folder": str(folder), "rows": summary_records(rows), "means": mean_records(found)}
        print(json.dumps(document, allow_nan=False))
        return
    from attnbench.report.terminal.console import console

    out = console(120)
    if rows:  # none where all methods are those of the other version of a gate
        out.print(summary_table(rows, found.samples))
    if any(row.gpus for row in rows):
        out.print(ranks_table(rows))
    out.print(f"Rows, samples, environment: {folder}\nMake a page: attnbench report {folder}")
