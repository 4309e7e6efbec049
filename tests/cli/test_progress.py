"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from attnbench.cli.progress import TerminalProgress, duration
from attnbench.machine.clock import Clock

LONG = "/a/folder/with/a/name/that/is/longer/than/a/line/of/a/terminal/of/eighty/columns/would/ever/be/20260101T000000Z"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (39.6, "40 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3725, "62 min 05 s")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_elsewhere_a_step_is_a_line_every_ten_seconds_and_each_note_is_one(
    capsys: pytest.CaptureFixture[str], hand_clock: Callable[[list[float]], Clock]
) -> None:
    now = [3.0]
    with TerminalProgress(hand_clock(now)) as progress:
        progress.step("verifying sta", 0, 2, None)
        now[0] += 9.9
        progress.step("round 1 of 3: dense baseline", 1, 2, 80)
        now[0] += 0.2
        progress.step("round 1 of 3: sta", 1, 2, 75)
        progress.note("[bold]no[/bold] markup")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "attnbench: verifying sta",
        "attnbench: round 1 of 3: sta, about 1 min 15 s left",
        "attnbench: [bold]no[/bold] markup",
    ]


def test_an_interrupt_names_the_folder_on_a_line_that_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress() as progress:
        progress.interrupted()
        progress.started(LONG)
        progress.interrupted()
    before, after = capsys.readouterr().err.splitlines()
    assert before == "attnbench: interrupted before anything was measured"
    assert after.endswith(f"attnbench run --resume {LONG}")


def test_on_a_terminal_the_steps_share_one_line_and_notes_stay() -> None:
    screen = io.StringIO()
    progress = TerminalProgress()
    progress.console = progress.bar.live.console = Console(file=screen, force_terminal=True, width=80)
    with progress:
        for number in range(3):
            progress.step(f"round {number + 1} of 3", number, 3, 9 - number)
        progress.note("a remark")
    assert len(progress.bar.tasks) == 1
    assert progress.bar.tasks[0].description == "round 3 of 3"
    assert progress.bar.tasks[0].fields["left"] == "about 7 s left"
    assert "attnbench: a remark" in screen.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_shows_no_step_and_every_note(terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    progress = TerminalProgress(quiet=True)
    if terminal:
        progress.console = progress.bar.live.console = Console(file=screen, force_terminal=True, width=80)
    with progress:
        progress.step("verifying sta", 0, 2, None)
        progress.note("the clock runs backwards")
    said = capsys.readouterr()
    assert said.out == ""
    assert (screen.getvalue() + said.err).strip() == "attnbench: the clock runs backwards"


def test_a_quiet_run_prints_its_results_only(call: Callable[..., tuple[int, str, str]]) -> None:
    small = ("--grid", "2x3x4", "--heads", "1", "--device", "cpu", "--inputs", "gaussian", "--stability-calls", "2")
    asked = ("run", "--method", "sta", "--rounds", "1", *small)
    code, out, said = call(*asked, "--quiet", "--out", "a")
    assert (code, said) == (0, "")
    assert "sta" in out
    (Path("suite.toml")).write_text(
        '[[cells]]\nname = "one"\nmethod = "sta"\nrounds = 1\ngrid = "2x3x4"\nheads = 1\n'
        'inputs = "gaussian"\nstability_calls = 2\ndevice = "cpu"\n'
    )
    code, out, said = call("run", "--suite", "suite.toml", "-q", "--out", "b")
    assert (code, said) == (0, "")
    assert "1 of 1 cells are fine: b" in out


def test_a_terminal_that_cannot_go_back_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hand_clock: Callable[[list[float]], Clock]
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")  # for rich: standard error is a terminal
    now = [0.0]
    with TerminalProgress(hand_clock(now)) as progress:
        assert progress.console.is_terminal
        for _ in range(3):
            progress.step("verifying sta", 0, 2, None)
            now[0] += 6
    assert capsys.readouterr().err == "attnbench: verifying sta\nattnbench: verifying sta\n"
