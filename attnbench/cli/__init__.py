"""The command line: one file a command. Nothing here imports torch before a command runs."""

from __future__ import annotations

import os
import sys

import typer

from attnbench.cli.compare import compare
from attnbench.cli.doctor import doctor
from attnbench.cli.ls import ls
from attnbench.cli.report import report
from attnbench.cli.run import run
from attnbench.cli.show import show

app = typer.Typer(
    name="attnbench",
    help="Compare sparse attention for video diffusion: speed, cost, and what it does to the video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
for command in (run, report, compare, ls, show, doctor):
    app.command()(command)


def main() -> None:
    """Run the command line; turn a user's error into one sentence and exit code 2, an interrupt into 130."""
    try:
        app()
    except KeyboardInterrupt:
        print("attnbench: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        from attnbench.kernels.errors import AttnbenchError

        if not isinstance(error, AttnbenchError):
            raise
        print(f"attnbench: {error}", file=sys.stderr)
        sys.exit(2)
