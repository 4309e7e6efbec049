"""``attnbench repro``: the command that makes a row of results again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnbench.cli.options import JsonOption, QuietOption
from attnbench.cli.terminal import say

if TYPE_CHECKING:
    from attnbench.results.load import Results
    from attnbench.results.records.cells import Row, RunHeader

_SHOWN = 12


def repro(
    ctx: typer.Context,
    row_id: Annotated[str, typer.Argument(metavar="ROW_ID", help="A row's row_id, or a beginning that only it has.")],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Files and folders of results that hold the row. Default: results."),
    ] = None,
    again: Annotated[bool, typer.Option("--run", help="Measure it again, and compare.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --run: folder of the run. Default: results/runs/<time>-repro.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print the command that measures a row again, and say if the code is another than the row was measured with.

    With --run the row is measured again and compared with what it was, as attnbench compare does.

    Exit codes: 0 fine, 2 bad input or no such row; with --run as attnbench run: 1 a cell that is wrong, failed, crashed
    or hung, or no latency, 130 interrupted.
    """
    from attnbench.kernels.errors import BadInput
    from attnbench.machine.environment import commit_here
    from attnbench.results.load import read
    from attnbench.results.repro import command_line, command_of, find_row, profiled_rows

    if out is not None and not again:
        raise BadInput(f"--out {str(out)!r} is for --run, which measures the row again")
    results = read(*(paths or [Path("results")]))
    row = find_row(results, row_id)
    header = next((each for each in results.headers if each.run_id == row.run_id), None)
    words = command_of(row, header, profiled=profiled_rows(results)(row))
    commit, dirty = commit_here()
    differs = _differences(header, commit, dirty)
    if as_json and not again:
        made = None if header is None else header.environment
        document = {
            "row_id": row.row_id, "run_id": row.run_id, "cell_id": row.cell_id, "words": words,
            "command": command_line(words), "device": row.device, "commit": made and made.git_commit,
            "commit_here": commit, "differs": differs,
        }  # fmt: skip
        print(json.dumps(document))
        return
    say(command_line(words), error=again)
    for line in differs:
        say(f"attnbench: {line}", error=True)
    if again:
        raise typer.Exit(_again(ctx, words, out, quiet, as_json, results, row))


def _differences(header: RunHeader | None, commit: str | None, dirty: bool) -> list[str]:
    """Say what of the code is another than the row was measured with, or is not known."""
    made = None if header is None else header.environment
    if made is None or made.git_commit is None:
        return ["the row does not say with which commit it was measured"]
    changed, here = " with uncommitted changes" if made.git_dirty else "", " with uncommitted changes" if dirty else ""
    same = commit is not None and (commit.startswith(made.git_commit) or made.git_commit.startswith(commit))
    if same and not changed and not here:
        return []
    ours = "this code does not know its commit" if commit is None else f"this code is commit {commit[:_SHOWN]}{here}"
    return [f"the row was measured at commit {made.git_commit[:_SHOWN]}{changed}; {ours}"]


def _again(
    ctx: typer.Context, words: list[str], out: Path | None, quiet: bool, as_json: bool, before: Results, row: Row
) -> int:
    """Measure a row again, and say how it compares; return the exit code of the run."""
    from attnbench.results.load import read
    from attnbench.results.run import choose_place

    folder = choose_place(out, "-repro").folder
    group: Any = ctx.find_root().command
    asked = [*words[1:], "--out", str(folder), *(["--quiet"] if quiet else []), *(["--json"] if as_json else [])]
    code = group.main(args=asked, prog_name="attnbench", standalone_mode=False)
    if not as_json and code in (0, None):
        _compare(before, row, read(folder))
    return code if isinstance(code, int) else 0


def _compare(before: Results, row: Row, now: Results) -> None:
    from dataclasses import replace

    from attnbench.report.terminal.comparison import comparison_lines
    from attnbench.results.compare import compare_tables

    cells = {each.cell_id for each in now.rows}
    same = tuple(each for each in before.rows if each.run_id == row.run_id and each.cell_id in cells)
    own = tuple(each for each in now.rows if each.cell_id in {old.cell_id for old in same})
    if same:
        say(
            "\n".join(
                [
                    "A: as it was; B: now",
                    *comparison_lines(compare_tables(replace(before, rows=same), replace(now, rows=own))),
                ]
            )
        )
    else:
        say(f"Not compared: this is another device than {row.device}.")
