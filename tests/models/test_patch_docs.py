"""The page about patching: its examples run and print what they promise, and its tables name what exists."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
from pathlib import Path

import pytest

import attnbench
from attnbench.models.step_report import StepReport, StepRow

pytest.importorskip("diffusers")

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "patch.md").read_text(encoding="utf-8")


def test_the_examples_print_what_they_promise() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for code in blocks:
        promised = re.findall(r"^print\(.*\)  # (.*)$", code, flags=re.MULTILINE)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "<documentation>", "exec"), {})
        assert out.getvalue().splitlines() == promised


def test_every_argument_and_figure_of_the_tables_exists() -> None:
    arguments, figures = re.findall(r"^\| (?:Argument|Figure) .*\n\|[-| ]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    named = re.findall(r"`\**(\w+)`", "".join(line.split("|")[1] for line in arguments.splitlines()))
    assert set(named) == set(inspect.signature(attnbench.patch).parameters)
    fields = {field.name for kind in (StepReport, StepRow) for field in dataclasses.fields(kind)}
    assert {line.split("`")[1] for line in figures.splitlines()} <= fields
