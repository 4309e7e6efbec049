"""The command line: one file a command. Nothing here imports torch before a command runs."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from attnbench.cli.lazy import LazyCommands
from attnbench.cli.terminal import say, sturdy_streams
from attnbench.machine.command import recorded_as
from attnbench.machine.exits import no_silent_exit
from attnbench.machine.signals import ending_as_interrupts, exit_code

COMMANDS = (
    "run",
    "profile",
    "step",
    "sweep",
    "report",
    "repro",
    "compare",
    "gate",
    "calibrate",
    "history",
    "analyze",
    "clips",
    "capture",
    "train",
    "flops",
    "ls",
    "show",
    "check",
    "doctor",
    "vbench",
)
"""In the order of ``--help``; each is the file of its name in this folder."""


_COMPLETION = "_ATTNBENCH_COMPLETE"
_COMMAND_FIRST = f"{__name__}.command_first"


class _Commands(TyperGroup):
    """Imports a command when it is asked for, and records with a run what was typed, whoever calls the commands.

    A context is Any here: its class is typer's own or click's, as typer's version has it.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands: Any = LazyCommands(COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        ctx.meta[_COMMAND_FIRST] = bool(args) and not args[0].startswith("-")
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        # Where a command comes first no option of the group is given, and typer would import pydantic to read that.
        return [] if ctx.meta.get(_COMMAND_FIRST) else super().get_params(ctx)

    def make_context(self, info_name: str | None, args: list[str], *given: Any, **more: Any) -> Any:
        typed = [info_name or "attnbench", *args]
        ctx = super().make_context(info_name, args, *given, **more)
        ctx.meta[__name__] = typed
        return ctx

    def invoke(self, ctx: Any) -> Any:
        try:
            with recorded_as(ctx.meta[__name__]):
                return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:  # typer makes 130 of every one, and says nothing
            say("attnbench: interrupted", error=True)
            raise typer.Exit(exit_code(interrupt)) from None


app = typer.Typer(
    name="attnbench",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _print_version(asked: bool) -> None:
    if asked:
        from attnbench import __version__

        print(f"attnbench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compare sparse attention for video diffusion: speed, cost, and what it does to the video."""


class _Warnings:
    """Prints a warning of ours as one sentence, and one of a library with where it comes from; each text once."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    def show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Stand in for ``warnings.showwarning``."""
        ours = category.__module__.partition(".")[0] == "attnbench"
        text = str(message) if ours else warnings.formatwarning(message, category, filename, lineno, line).rstrip()
        if text not in self.said:
            self.said.add(text)
            say(f"attnbench: {text}" if ours else text, error=True)


@sturdy_streams()
def main() -> None:
    """Run the command line; turn a user's error into one sentence and exit code 2, an interrupt into 130.

    Where a rank of several is lost, the code is 1.

    SIGTERM and SIGHUP end it as an interrupt does, with 143 and 129. Code of other packages cannot end it.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler prints two lines each time it is used
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _Warnings().show
            with ending_as_interrupts(), no_silent_exit(lambda text: say(f"attnbench: {text}", error=True)):
                code = app(prog_name="attnbench", standalone_mode=False)
    except KeyboardInterrupt as interrupt:
        say("attnbench: interrupted", error=True)
        sys.exit(exit_code(interrupt))
    except SystemExit as error:
        if _COMPLETION in os.environ:  # typer answers a shell that asks how to complete a word, and exits
            raise
        say(f"attnbench: code of another package called sys.exit({error.code!r}): that is no result", error=True)
        sys.exit(1)
    except Exception as error:
        from attnbench.kernels.errors import AttnbenchError, RankLost

        usage = _usage_problem(error)
        if usage is None and not isinstance(error, AttnbenchError):
            raise
        if usage != "":
            say(f"attnbench: {usage or error}", error=True)
        sys.exit(1 if isinstance(error, RankLost) else 2)
    sys.exit(code if isinstance(code, int) else 0)


def _usage_problem(error: Exception) -> str | None:
    """Say in one sentence what typer did not understand, quoting what was typed; None for errors of another kind.

    Told by its methods: the class is typer's own or click's, as typer's version has it.
    """
    said = getattr(error, "format_message", None)
    if said is None:
        return None
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""  # the help was printed when the error was made
    text = " ".join(str(said()).split()).rstrip(".")
    problems = getattr(error.__cause__, "errors", None)  # of pydantic, whose words leave out the value
    typed = problems()[0].get("input") if callable(problems) else None
    quoted = "" if typed is None or repr(typed) in text else f", not {typed!r}"
    command = getattr(getattr(error, "ctx", None), "command_path", "attnbench")
    return f"{text}{quoted}; {command} --help says what there is"
