"""Held-out losses of native training, drawn from committed logs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from attnbench.report.marks import mark_of

ROOT = Path(__file__).resolve().parents[3]
FIVE = [mark_of(method).light for method in ("full", "sta", "vmoba", "moba", "sliding-window")]
RUNS = ROOT / "results" / "h100" / "native"

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(command_line: Callable[..., tuple[int, str, str]]) -> Call:
    """Draw curves on the command line; return the exit code and what was said on standard error."""

    def run(folder: Path, picture: Path, *words: str) -> tuple[int, str]:
        code, _, err = command_line("compare", folder, "--curves", picture, *words)
        return code, err

    return run


def test_curves_are_drawn_of_methods_with_several_seeds(call: Call, tmp_path: Path) -> None:
    assert call(RUNS, tmp_path / "a.svg") == (0, "")
    assert call(RUNS, tmp_path / "b.svg") == (0, "")
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    few = tmp_path / "few"
    for name in ("full-0", "full-1", "sta-0"):
        shutil.copytree(RUNS / name, few / name)
    assert call(few, tmp_path / "c.svg") == (0, "")
    in_both = [colour in picture for picture in (drawn, (tmp_path / "c.svg").read_text()) for colour in FIVE]
    assert in_both == [True] * 6 + [False] * 4
    shutil.rmtree(few / "full-1")
    assert call(few, tmp_path / "d.svg") == (0, "")
    assert [colour in (tmp_path / "d.svg").read_text() for colour in FIVE] == [True] * 2 + [False] * 3


def test_curves_that_cannot_be_drawn_are_refused(call: Call, tmp_path: Path) -> None:
    code, said = call(RUNS, tmp_path / "d.png")
    assert (code, "d.png' must end in .svg" in said) == (2, True)
    code, said = call(RUNS, tmp_path / "d.svg", "--method", "full", "--method", "sta", "--baseline", "vmoba")
    assert (code, "--baseline 'vmoba' is not one of the methods that are compared: full, sta" in said) == (2, True)
    (tmp_path / "file").touch()
    code, said = call(RUNS, tmp_path / "file" / "d.svg")
    assert (code, "cannot write" in said) == (2, True)
    assert not (tmp_path / "d.svg").exists()
