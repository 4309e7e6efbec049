"""The pages about patching, models and captures: what examples promise, and that tables name what exists."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from pathlib import Path

import pytest

import attnbench
from attnbench.results.records.steps import StepRecord

pytest.importorskip("diffusers")

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "patch.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "examples"), [("patch", 2), ("models", 1), ("capture", 1)])
def test_the_examples_print_what_they_promise(page: str, examples: int) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == examples
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
    assert {line.split("`")[1] for line in figures.splitlines()} <= set(StepRecord.model_fields)
