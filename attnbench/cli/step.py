"""``attnbench step``: a whole transformer step with each method in place of its self-attention."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnbench.cli.options import (
    CaseOptions,
    CellOptions,
    JsonOption,
    OutOption,
    QuietOption,
    RanksOptions,
    asked_methods,
    takes_options,
)
from attnbench.cli.ranks import check_number, start_if_none
from attnbench.cli.suite import SuiteOptions, check_only, run_suite

if TYPE_CHECKING:
    from attnbench.bench.step.session import StepRequest
    from attnbench.results.records.steps import StepRecord
    from attnbench.results.run import Progress

    Measure = Callable[[StepRequest, Path | None, Progress], tuple[Path, list[StepRecord]] | None]


@dataclass(frozen=True)
class StepOptions(CaseOptions):
    """What a step is measured on."""

    model: Annotated[
        str | None, typer.Option(help="wan2.1-1.3b, the default on a GPU, or tiny, the default on a CPU.")
    ] = None
    text_tokens: Annotated[str | None, typer.Option(help="Text tokens of the cross-attention. Default: 512.")] = None
    heads: Annotated[
        int | None, typer.Option(help="Heads of a model that is as much narrower or wider. Default: those of --model.")
    ] = None
    rounds: Annotated[int | None, typer.Option(help="Rounds of timing. Default: 3 to 7, by model and direction.")] = (
        None
    )


@takes_options
def step(
    ctx: typer.Context,
    asked: StepOptions,
    ranks: RanksOptions,
    suite: SuiteOptions,
    checkpointing: Annotated[
        bool | None, typer.Option(help="Run blocks forward again in the backward pass. Default: 1.3B in training.")
    ] = None,
    graphs: Annotated[
        bool, typer.Option("--graphs", help="Also run each method as CUDA graphs, one a call, as attnbench.graphed.")
    ] = False,
    out: OutOption = None,
    resume: Annotated[Path | None, typer.Option(help="With --suite: finish the suite in this folder.")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a whole step of Wan with random weights, and how much of it self-attention is.

    Each method takes the place of self-attention. The step is forward, or with --direction fwdbwd a training step
    without the optimizer.

    Exit codes: 0 fine, 2 bad input, 130 interrupted.
    """
    from attnbench.bench.step.session import check_request
    from attnbench.kernels.errors import BadInput

    run_suite(ctx, suite, out, resume, as_json, quiet)
    if resume is not None:
        raise BadInput("--resume is for --suite: a step is written when all of it is measured")
    request = step_request(asked, checkpointing, heads=asked.heads, graphs=graphs)
    if ranks.gpus is not None or ranks.parallel is not None:
        over_ranks(ctx, request, ranks, out, as_json, quiet)
        return
    check_only(ctx, lambda: check_request(request))
    measure_and_show(request, out, as_json, quiet)


def step_request(
    asked: StepOptions | CellOptions, checkpointing: bool | None, *, heads: int | None = None, graphs: bool = False
) -> StepRequest:
    """Return the request that options make, those of ``profile`` too.

    Raises:
        BadInput: for an unknown method or a setting that cannot be read.
    """
    from attnbench.bench.step.session import StepRequest

    methods = asked_methods(asked.method, asked.settings)
    return StepRequest(
        methods, model=asked.model, res=asked.res, frames=asked.frames, height=asked.height,
        width=asked.width, text_tokens=asked.text_tokens, grid=asked.grid, batch=asked.batch,
        dtype=asked.dtype, device=asked.device, direction=asked.direction, checkpointing=checkpointing,
        engine=asked.engine, strict=asked.strict, rounds=asked.rounds, seed=asked.seed, heads=heads, graphs=graphs,
    )  # fmt: skip


def over_ranks(
    ctx: typer.Context, request: StepRequest, ranks: RanksOptions, out: Path | None, as_json: bool, quiet: bool
) -> None:
    """Measure a step over ranks, as one of them or by starting them.

    Raises:
        BadInput: for anything that cannot be used, before a rank is started.
        RankLost: if a rank ended.
        typer.Exit: with the exit code, in the process that started the ranks.
    """
    from attnbench.bench.step.session import check_request
    from attnbench.machine.device import resolve_device
    from attnbench.results.run import check_writable
    from attnbench.scale.group_step import check_group_step, run_group_step
    from attnbench.scale.ranks import check_count, is_rank

    count = check_number(ranks)
    spread = dataclasses.replace(request, gpus=count, parallel=ranks.parallel)

    def check() -> None:
        check_count(count, resolve_device(spread.device))
        check_request(spread)
        check_group_step(spread)
        if out is not None and not is_rank():
            check_writable(out)

    check_only(ctx, check)
    check()
    start_if_none(count)
    measure_and_show(spread, out, as_json, quiet, run_group_step)


def measure_and_show(
    request: StepRequest, out: Path | None, as_json: bool, quiet: bool, measure: Measure | None = None
) -> None:
    """Measure a step, journal it and print its tables, or one JSON document.

    Args:
        request, out, as_json, quiet: of the command.
        measure: returns the folder and the records, or None where there are none to show; default ``run_step``.
    """
    from attnbench.bench.step.session import run_step
    from attnbench.cli.progress import TerminalProgress
    from attnbench.machine.signals import exit_code as code_of

    with TerminalProgress(quiet=quiet) as progress:
        try:
            measured = (measure or run_step)(request, out, progress)
        except KeyboardInterrupt as interrupt:
            progress.note("interrupted; a step is written when all of it is measured, so nothing was")
            raise typer.Exit(code_of(interrupt)) from None
    if measured is None:
        return
    folder, records = measured
    if as_json:
        own = [record.model_dump(mode="json") for record in records]
        print(json.dumps({"folder": str(folder), "steps": own}, allow_nan=False))
    else:
        _print(folder, records)


def _print(folder: Path, records: list[StepRecord]) -> None:
    from attnbench.report.html.steps import step_sections, step_table
    from attnbench.report.terminal.console import console

    out = console(140)
    for section in step_sections(records):
        out.print(step_table(section))
        out.print(section.finding)
        for line in section.lines:
            if line.phases:
                out.print(f"{line.name}: {line.phases}")
    out.print(f"Records: {folder}\nMake a page: attnbench report {folder}")
