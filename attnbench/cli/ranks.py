"""``--gpus N``: measure over several ranks, as one of them or by starting them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from attnbench.cli.options import CellOptions, RanksOptions
from attnbench.cli.suite import check_only
from attnbench.cli.terminal import say

if TYPE_CHECKING:
    from attnbench.bench.request import Request
    from attnbench.scale.group_run import GroupOutcome


def over_ranks(
    ctx: typer.Context,
    asked: CellOptions,
    ranks: RanksOptions,
    out: Path | None,
    resume: Path | None,
    *,
    quiet: bool,
    profiled: bool = False,
    repeats: int | None = None,
    traces: bool = True,
) -> GroupOutcome | None:
    """Measure over the ranks that were asked for, or go on with a run over ranks; return None for any other.

    Under torchrun this process is one of the ranks, of which rank 0 returns the run. Otherwise they are started on this
    host, and what rank 0 prints is printed.

    Raises:
        BadInput: for anything that cannot be used, before a rank is started.
        RankLost: if a rank ended.
        typer.Exit: with the exit code, in all processes but rank 0.
    """
    if resume is None and ranks.gpus is None and ranks.parallel is None:
        return None
    from attnbench.cli.progress import TerminalProgress
    from attnbench.kernels.errors import RankLost
    from attnbench.machine.device import resolve_device
    from attnbench.machine.signals import exit_code as code_of
    from attnbench.results.run import check_writable
    from attnbench.scale.group_rows import Profiled
    from attnbench.scale.group_run import check_group, check_resumed, group_request, resume_group, start_group
    from attnbench.scale.ranks import check_count, is_rank

    request = _request(asked, ranks) if resume is None else group_request(resume)
    if request is None:
        return None
    count = request.gpus
    assert count is not None

    def check() -> None:
        check_count(count, resolve_device(request.device))
        check_group(request)
        if is_rank():  # rank 0 looks, and writes
            return
        if out is not None:
            check_writable(out)
        if resume is not None:
            check_resumed(resume, request)

    check_only(ctx, check)
    check()
    start_if_none(count)
    command, how = ("profile", Profiled(repeats, traces)) if profiled else ("run", None)
    with TerminalProgress(quiet=quiet) as progress:
        try:
            if resume is not None:
                outcome = resume_group(resume, progress, how)
            else:
                outcome = start_group(request, out, progress, how)
        except KeyboardInterrupt as interrupt:
            if progress.folder is not None:
                progress.interrupted(command)
            raise typer.Exit(code_of(interrupt)) from None
        except RankLost as error:
            if progress.folder is None:
                raise
            raise RankLost(f"{error}; continue with: attnbench {command} --resume {progress.folder}") from error
    if outcome is None:
        raise typer.Exit(0)
    return outcome


def start_if_none(count: int) -> None:
    """Start the ranks of this command line and end with their exit code, unless this process is one of them."""
    from attnbench.machine.command import typed_command
    from attnbench.machine.signals import exit_code as code_of
    from attnbench.scale.ranks import is_rank, start

    if is_rank():
        return
    try:
        code, printed = start(count, typed_command()[1:])
    except KeyboardInterrupt as interrupt:
        raise typer.Exit(code_of(interrupt)) from None
    say(printed.rstrip())
    raise typer.Exit(code)


def check_number(ranks: RanksOptions) -> int:
    """Return how many ranks were asked for.

    Raises:
        BadInput: for fewer than 2, or a way without a number.
    """
    from attnbench.kernels.errors import BadInput

    if ranks.gpus is None or ranks.gpus < 2:
        given = f"--gpus is {ranks.gpus}" if ranks.gpus is not None else "--parallel is for --gpus"
        raise BadInput(f"{given}; give the number of ranks, at least 2, as --gpus 2")
    return ranks.gpus


def _request(asked: CellOptions, ranks: RanksOptions) -> Request:
    return asked.request().model_copy(update={"gpus": check_number(ranks), "parallel": ranks.parallel})
