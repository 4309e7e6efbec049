"""``--suite FILE``: run the cells of a suite, each as the command that it names."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnbench.cli.options import refuse_others

if TYPE_CHECKING:
    from collections.abc import Iterator

    from attnbench.bench.suite import Options, SuiteCell

COMMANDS = ("run", "profile", "step", "sweep", "clips", "train")
_NOT_IN_SUITES = ("out", "resume", "json", "suite", "only", "dry_run", "end_to_end", "help", "gallery")
_PATHS = ("weights", "prompts", "coarse_from")


@dataclass(frozen=True)
class SuiteOptions:
    """A suite in place of the options of one call."""

    suite: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure the cells of this TOML file instead."),
    ] = None
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --suite: only the cell of this name."),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --suite: print the calls, and make none.")] = False


def run_suite(ctx: typer.Context, asked: SuiteOptions, out: Path | None, resume: Path | None, as_json: bool) -> None:
    """Run the cells of the suite that is asked for, and end with the worst of their exit codes; without one, return.

    Raises:
        BadInput: for a suite or a folder that cannot be used, and for options of a suite without one; nothing is
            measured then.
        typer.Exit: with the exit code.
    """
    from attnbench.kernels.errors import BadInput, unknown_name

    path, only = asked.suite, asked.only
    if path is None:
        if only or asked.dry_run:
            raise BadInput(f"{'--only' if only else '--dry-run'} is for --suite: name its file")
        return
    from attnbench.bench.suite import read_suite

    kept = ("--suite", "--out", "--resume", "--only", "--dry-run", "--json")
    refuse_others(ctx, "--suite says what is measured", *kept)
    group: Any = ctx.find_root().command
    cells = read_suite(path, suite_options(group), str(ctx.info_name))
    for name in only or ():
        if name not in {cell.name for cell in cells}:
            raise unknown_name("cell", name, [cell.name for cell in cells])
    cells = [cell for cell in cells if not only or cell.name in only]
    if asked.dry_run:
        print("\n".join(f"{cell.name}: {cell.line}" for cell in cells))
        raise typer.Exit(0)
    folder = _folder(out, resume, cells)
    codes: dict[str, tuple[int, str]] = {}
    with _taken(folder):
        for number, cell in enumerate(cells, 1):
            print(f"attnbench: cell {number} of {len(cells)}: {cell.name}", file=sys.stderr, flush=True)
            codes[cell.name] = _call(group, cell, folder, quiet=as_json)
            if codes[cell.name][0] in (129, 130, 143):
                again = f"attnbench {ctx.info_name} --suite {path} --resume {folder}"
                print(f"attnbench: go on with: {again}", file=sys.stderr)
                raise typer.Exit(codes[cell.name][0])
    _tell(folder, cells, codes, as_json)
    found = {code for code, _ in codes.values()}
    raise typer.Exit(1 if 1 in found else max(found))


def suite_options(group: Any) -> Options:
    """Return the options that the cells of a suite may set, by command and key."""
    from attnbench.bench.suite import SuiteOption

    found: dict[str, dict[str, SuiteOption]] = {}
    for name in COMMANDS:
        found[name] = {}
        for parameter in group.commands[name].params:
            word = max(parameter.opts, key=len)
            key = word.removeprefix("--").replace("-", "_")
            if word.startswith("--") and key not in _NOT_IN_SUITES:
                found[name][key] = SuiteOption(
                    word,
                    negation=max(parameter.secondary_opts, key=len, default=""),
                    flag=bool(getattr(parameter, "is_flag", False)),
                    several=bool(parameter.multiple),
                    path=key in _PATHS,
                )
    return found


def _folder(out: Path | None, resume: Path | None, cells: list[SuiteCell]) -> Path:
    """Return the suite's folder, with nothing of its cells in it unless the suite goes on.

    Raises:
        BadInput: for a folder that cannot be used.
    """
    from attnbench.kernels.errors import BadInput
    from attnbench.results.run import choose_place

    if resume is not None:
        if out is not None:
            raise BadInput(f"--resume {str(resume)!r} says where the suite goes on: leave out --out")
        if not resume.is_dir():
            raise BadInput(f"nothing to resume: {str(resume)!r} is not a folder")
        return resume
    folder = choose_place(out, "-suite").folder
    held = next((cell.name for cell in cells if (folder / cell.name).exists()), None)
    if held is not None:
        raise BadInput(f"{str(folder)!r} holds {held!r} already; choose another --out, or go on with --resume {folder}")
    return folder


@contextlib.contextmanager
def _taken(folder: Path) -> Iterator[None]:
    """Keep other suites out of a folder while this one runs in it: two at once would disturb each other's timing."""
    from attnbench.kernels.errors import BadInput
    from attnbench.results.files import alone

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write results to {str(folder)!r}: {error.strerror}; choose another --out") from error
    with alone(folder, "running a suite in"):
        yield


def _call(group: Any, cell: SuiteCell, folder: Path, *, quiet: bool) -> tuple[int, str]:
    """Run a cell; return its exit code, and the sentence of an error that is its own."""
    from attnbench.kernels.errors import AttnbenchError
    from attnbench.results.journal import JOURNAL
    from attnbench.results.load import read

    place = folder / cell.name
    words = [cell.command, *cell.words, "--out", str(place)]
    if _begun(place):
        if cell.command == "step":
            if read(place / JOURNAL).steps:
                return 0, "measured before"
            (place / JOURNAL).unlink()  # of a step that was killed: it is not resumed, but measured anew
        else:
            words = [cell.command, "--resume", str(place)]
    silence = contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()
    try:
        with silence:
            code = group.main(args=words, prog_name="attnbench", standalone_mode=False)
    except AttnbenchError as error:
        print(f"attnbench: {cell.name}: {error}", file=sys.stderr)
        return 2, str(error)
    except Exception as error:
        said = getattr(error, "format_message", None)  # of what typer did not understand
        if said is None:
            raise
        print(f"attnbench: {cell.name}: {said()}", file=sys.stderr)
        return 2, str(said())
    return (code if isinstance(code, int) else 0), ""


def _begun(place: Path) -> bool:
    """Whether a command has begun to write there."""
    from attnbench.bench.sweep.session import PLAN
    from attnbench.results.journal import JOURNAL
    from attnbench.results.training import CONFIG

    return any((place / name).exists() for name in (JOURNAL, PLAN, CONFIG))


def _tell(folder: Path, cells: list[SuiteCell], codes: dict[str, tuple[int, str]], as_json: bool) -> None:
    if as_json:
        made = []
        for cell in cells:
            code, reason = codes[cell.name]
            made.append({"name": cell.name, "command": cell.command, "exit_code": code, "reason": reason})
        print(json.dumps({"folder": str(folder), "cells": made}))
        return
    failed = {name: reason or f"exit code {code}" for name, (code, reason) in codes.items() if code}
    print(f"{len(cells) - len(failed)} of {len(cells)} cells are fine: {folder}")
    for name, reason in failed.items():
        print(f"{name}: {reason}")
