"""``--suite FILE``: run the cells of a suite, each as the command that it names."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from attnbench.cli.old_words import OLD_WORDS
from attnbench.cli.options import refuse_others
from attnbench.cli.terminal import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from attnbench.bench.estimate import Estimate
    from attnbench.bench.suite import Options, SuiteCell

COMMANDS = ("run", "profile", "step", "sweep", "clips", "train")
_NOT_IN_SUITES = ("out", "resume", "json", "suite", "only", "dry_run", "end_to_end", "help", "gallery", "quiet")
_PATHS = ("weights", "prompts", "coarse_from")


@dataclass
class _Checking:
    """What a context holds while a suite checks a cell before the first one runs."""

    estimate: Estimate | None = None


@dataclass(frozen=True)
class SuiteOptions:
    """A suite in place of the options of one call."""

    suite: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure the cells of this TOML file instead."),
    ] = None
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --suite: only the cells of this name, or of a pattern as '480p-*'."),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --suite: print the calls, and make none.")] = False
    on: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE",
            help="With --suite: measure its cells by workers, one a GPU: local, slurm or ray, with settings as "
            "slurm:partition=gpu. With --dry-run: print their GPU time.",
        ),
    ] = None


def run_suite(
    ctx: typer.Context,
    asked: SuiteOptions,
    out: Path | None,
    resume: Path | None,
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    """Run the cells of the suite that is asked for, and end with the worst of their exit codes; without one, return.

    Raises:
        BadInput: for a suite or a folder that cannot be used, and for options of a suite without one; nothing is
            measured then.
        typer.Exit: with the exit code.
    """
    from attnbench.kernels.errors import BadInput

    path, only = asked.suite, asked.only
    if path is None:
        given = {"--only": only, "--dry-run": asked.dry_run, "--on": asked.on}
        if word := next((word for word, value in given.items() if value), None):
            raise BadInput(f"{word} is for --suite: name its file")
        return
    from attnbench.bench.suite import read_suite

    kept = ("--suite", "--out", "--resume", "--only", "--dry-run", "--json", "--on")
    refuse_others(ctx, "--suite says what is measured", *kept)
    group: Any = ctx.find_root().command
    folder = _folder(out, resume)
    cells = read_suite(path, suite_options(group), str(ctx.info_name), folder)
    if only:
        names = [cell.name for cell in cells]
        asked_for = {name for pattern in only for name in _matching(pattern, names)}
        wanted = {*asked_for, *(need for cell in cells if cell.name in asked_for for need in cell.needs)}
        cells = [cell for cell in cells if cell.name in wanted]
    if asked.on is not None:
        from attnbench.cli.suite_on import run_on

        run_on(ctx, asked, cells, folder, resumed=resume is not None, as_json=as_json, quiet=quiet)
    if asked.dry_run:
        say("\n".join(f"{cell.name}: {cell.line}" for cell in cells))
        raise typer.Exit(0)
    from attnbench.bench.suite_calls import begun

    if resume is None:
        refuse_held(folder, cells)
    for cell in cells:
        if not begun(folder / cell.name):
            check_cell(group, path, cell, folder)
    codes: dict[str, tuple[int, str]] = {}
    with taken(folder):
        for number, cell in enumerate(cells, 1):
            if not quiet:
                say(f"attnbench: cell {number} of {len(cells)}: {cell.name}", error=True)
            codes[cell.name] = _call(group, cell, folder, silent=as_json, quiet=quiet)
            if codes[cell.name][0] in (129, 130, 143):
                again = f"attnbench {ctx.info_name} --suite {path} --resume {folder}"
                say(f"attnbench: continue with: {again}", error=True)
                raise typer.Exit(codes[cell.name][0])
    end_with(folder, cells, codes, as_json)


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the names that a pattern of ``--only`` stands for: of a cell, or with ``*``, ``?`` or ``[…]`` of several.

    Raises:
        BadInput: if there is none.
    """
    from attnbench.kernels.errors import unknown_name

    if pattern in names:
        return [pattern]
    if found := fnmatch.filter(names, pattern):
        return found
    raise unknown_name("cell", pattern, names)


def suite_options(group: Any) -> Options:
    """Return the options that the cells of a suite may set, by command and key."""
    from attnbench.bench.suite import SuiteOption

    found: dict[str, dict[str, SuiteOption]] = {}
    for name in COMMANDS:
        found[name] = {}
        for parameter in group.commands[name].params:
            word = max(parameter.opts, key=len)
            key = _key(word)
            if word.startswith("--") and key not in _NOT_IN_SUITES:
                found[name][key] = SuiteOption(
                    word,
                    negation=max(parameter.secondary_opts, key=len, default=""),
                    flag=bool(getattr(parameter, "is_flag", False)),
                    several=bool(parameter.multiple),
                    path=key in _PATHS,
                )
        for old, new in OLD_WORDS.get(name, {}).items():
            found[name][_key(old)] = replace(found[name][_key(new)], word=old)
    return found


def _key(word: str) -> str:
    return word.removeprefix("--").replace("-", "_")


def check_only(ctx: typer.Context, check: Callable[[], object]) -> None:
    """Where a suite calls a command to check its cell, call ``check`` and end; otherwise return.

    Args:
        check: raises for anything of the request that cannot be used. It may return an Estimate of the cell.

    Raises:
        typer.Exit: with code 0.
    """
    if isinstance(ctx.obj, _Checking):
        from attnbench.bench.estimate import Estimate

        found = check()
        ctx.obj.estimate = found if isinstance(found, Estimate) else None
        raise typer.Exit(0)


def check_cell(
    group: Any, path: Path, cell: SuiteCell, folder: Path, words: Sequence[str] | None = None
) -> Estimate | None:
    """Check a cell before the first one runs; return how long it takes, where that can be told.

    What only this machine lacks, as an engine, is told when the cell comes: it costs that cell only.

    Args:
        group: of all commands.
        path: of the suite.
        cell: of the suite.
        folder: of its results.
        words: options to check in the place of the cell's own.

    Raises:
        BadInput: naming the file and the cell, if its command could not use what it is asked.
    """
    from attnbench.kernels.errors import BadInput, Unsupported

    checking = _Checking()
    with contextlib.suppress(Unsupported):
        try:
            asked = [cell.command, *(cell.words if words is None else words), "--out", str(folder / cell.name)]
            group.main(args=asked, prog_name="attnbench", standalone_mode=False, obj=checking)
        except Unsupported:
            raise
        except Exception as error:
            if (said := _own_sentence(error)) is None:
                raise
            raise BadInput(f"suite {str(path)!r}, cell {cell.name!r}: {said}") from error
    return checking.estimate


def _own_sentence(error: Exception) -> str | None:
    """Return the sentence of an error of ours, or of what typer did not understand; None for any other."""
    from attnbench.kernels.errors import AttnbenchError

    if isinstance(error, AttnbenchError):
        return str(error)
    said = getattr(error, "format_message", None)
    return None if said is None else str(said())


def _folder(out: Path | None, resume: Path | None) -> Path:
    """Return the suite's folder.

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
    return choose_place(out, "-suite").folder


def refuse_held(folder: Path, cells: list[SuiteCell]) -> None:
    """Refuse a folder that holds something of the suite's cells.

    Raises:
        BadInput: naming the first such cell.
    """
    from attnbench.kernels.errors import BadInput

    held = next((cell.name for cell in cells if (folder / cell.name).exists()), None)
    if held is not None:
        raise BadInput(f"{str(folder)!r} holds {held!r} already; choose another --out, or use --resume {folder}")


@contextlib.contextmanager
def taken(folder: Path) -> Iterator[None]:
    """Keep other suites out of a folder while this one runs in it: two at once would disturb each other's timing."""
    from attnbench.kernels.errors import BadInput
    from attnbench.results.files import alone

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write results to {str(folder)!r}: {error.strerror}; choose another --out") from error
    with alone(folder, "running a suite in"):
        yield


def _call(group: Any, cell: SuiteCell, folder: Path, *, silent: bool, quiet: bool) -> tuple[int, str]:
    """Run a cell; return its exit code, and the sentence of an error that is its own."""
    from attnbench.bench.suite_calls import words_of

    words = words_of(cell.command, cell.words, folder / cell.name)
    if words is None:
        return 0, "measured before"
    words += ["--quiet"] if quiet else []
    silence = contextlib.redirect_stdout(io.StringIO()) if silent else contextlib.nullcontext()
    try:
        with silence:
            code = group.main(args=words, prog_name="attnbench", standalone_mode=False)
    except Exception as error:
        if (said := _own_sentence(error)) is None:
            raise
        say(f"attnbench: {cell.name}: {said}", error=True)
        return 2, said
    return (code if isinstance(code, int) else 0), ""


def end_with(folder: Path, cells: list[SuiteCell], codes: dict[str, tuple[int, str]], as_json: bool) -> NoReturn:
    """Tell which cells are fine, and end with the worst exit code.

    Args:
        folder: of the suite.
        cells: of it.
        codes: of each cell its exit code, and the sentence of an error that is its own.
        as_json: whether one JSON document is printed.

    Raises:
        typer.Exit: with the exit code.
    """
    _tell(folder, cells, codes, as_json)
    found = {code for code, _ in codes.values()}
    raise typer.Exit(1 if 1 in found else max(found))


def _tell(folder: Path, cells: list[SuiteCell], codes: dict[str, tuple[int, str]], as_json: bool) -> None:
    if as_json:
        made = []
        for cell in cells:
            code, reason = codes[cell.name]
            made.append({"name": cell.name, "command": cell.command, "exit_code": code, "reason": reason})
        print(json.dumps({"folder": str(folder), "cells": made}))
        return
    failed = {name: reason or f"exit code {code}" for name, (code, reason) in codes.items() if code}
    say(f"{len(cells) - len(failed)} of {len(cells)} cells are fine: {folder}")
    for name, reason in failed.items():
        say(f"{name}: {reason}")
