"""Which options were typed comes from the parser, under any host; completion and ``python -m`` work."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from attnbench.cli import app
from attnbench.cli.options import refuse_others, takes_options, typed_options
from attnbench.kernels.errors import BadInput
from attnbench.machine.command import recorded_as, typed_command

seen: list[list[str]] = []


@dataclass(frozen=True)
class Shape:
    size: Annotated[int, typer.Option(help="A number.")] = 1
    deep: Annotated[bool, typer.Option("--deep/--flat")] = True


def make_app() -> typer.Typer:
    host = typer.Typer()

    @host.command()
    @takes_options
    def command(ctx: typer.Context, asked: Shape, name: Annotated[str, typer.Option("--name", "-n")] = "") -> None:
        seen.append([*typed_options(ctx), f"{asked.size}{asked.deep}{name}"])
        refuse_others(ctx, "--size says it all", "--size")

    return host


@pytest.mark.parametrize(
    ("words", "typed", "refused"),
    [
        ([], [], False),
        (["--size", "1"], ["--size"], False),
        (["-nx", "--size=2"], ["--size", "--name"], True),
        (["--flat"], ["--flat"], True),
        (["--deep"], ["--deep"], True),
    ],
)
def test_options_are_told_from_defaults(
    words: list[str], typed: list[str], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["a-host", "--name", "of-the-host"])
    seen.clear()
    done = CliRunner().invoke(make_app(), words)
    assert seen[0][:-1] == typed
    assert isinstance(done.exception, BadInput) == refused
    if refused:
        assert "leave out --" in str(done.exception)


def test_a_command_records_what_was_typed_and_not_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["a-host"])
    assert typed_command() == ["a-host"]
    with recorded_as(["attnbench", "run"]):
        assert typed_command() == ["attnbench", "run"]
    assert typed_command() == ["a-host"]


def test_resume_is_refused_beside_other_options_under_any_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["a-host"])
    done = CliRunner().invoke(app, ["run", "--resume", "somewhere", "-m", "sta", "--budget", "3"])
    assert "leave out --method, --budget" in str(done.exception)


def test_the_shell_completes_commands() -> None:
    words = {"_ATTNBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "attnbench sw", "COMP_CWORD": "1"}
    call = [sys.executable, "-m", "attnbench"]
    done = subprocess.run(call, env={**os.environ, **words}, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == ["sweep"]


def test_the_package_is_the_command() -> None:
    call = [sys.executable, "-m", "attnbench", "--version"]
    done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.startswith("attnbench ")
