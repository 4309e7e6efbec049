"""``--gpus N``: measure over several ranks, as one of them or by starting them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from attnbench.cli.options import CellOptions, RanksOptions
from attnbench.cli.suite import check_only
from attnbench.cli.terminal import say

if TYPE_CHECKING:
    from attnbench.scale.group_rows import GroupOutcome


def over_ranks(
    ctx: typer.Context,
    asked: CellOptions,
    ranks: RanksOptions,
    out: Path | None,
    *,
    quiet: bool,
    profiled: bool = False,
    repeats: int | None = None,
) -> GroupOutcome | None:
    """Measure over the ranks that were asked for; return None if none were.

    Under torchrun this process is one of the ranks, of which rank 0 returns the run. Otherwise they are started on this
    host, and what rank 0 prints is printed.

    Raises:
        BadInput: for anything that cannot be used, before a rank is started.
        RankLost: if a rank ended.
        typer.Exit: with the exit code, in all processes but rank 0.
    """
    if ranks.gpus is None and ranks.parallel is None:
        return None
    from attnbench.cli.progress import TerminalProgress
    from attnbench.kernels.errors import BadInput
    from attnbench.machine.command import typed_command
    from attnbench.machine.device import resolve_device
    from attnbench.machine.signals import exit_code as code_of
    from attnbench.results.run import check_writable
    from attnbench.scale.group_rows import check_group, run_group
    from attnbench.scale.ranks import check_count, is_rank, start

    count = ranks.gpus
    if count is None or count < 2:
        given = f"--gpus is {count}" if count is not None else "--parallel is for --gpus"
        raise BadInput(f"{given}; give the number of ranks, at least 2, as --gpus 2")
    request = asked.request().model_copy(update={"gpus": count, "parallel": ranks.parallel})

    def check() -> None:
        check_count(count, resolve_device(request.device))
        check_group(request)
        if out is not None:
            check_writable(out)

    check_only(ctx, check)
    if not is_rank():
        check()
        code, printed = start(count, typed_command()[1:])
        say(printed.rstrip())
        raise typer.Exit(code)
    check_count(count, resolve_device(request.device))
    check_group(request)
    with TerminalProgress(quiet=quiet) as progress:
        try:
            outcome = run_group(request, out, progress, profiled=profiled, repeats=repeats)
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(code_of(interrupt)) from None
    if outcome is None:
        raise typer.Exit(0)
    return outcome
