"""The tables of pages about committed runs are what the commands on the page print."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from attnbench.cli import main
from attnbench.report.terminal.console import console
from attnbench.report.terminal.summary import summary_table
from attnbench.results.load import read

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("native-training.md", "training-free.md")
COMMANDS = [
    pytest.param(page, shlex.split(command), id=f"{page}-{number}")
    for page in PAGES
    for number, command in enumerate((ROOT / "docs" / page).read_text("utf-8").replace("\\\n", " ").splitlines())
    if command.startswith("attnbench compare ")
]


@pytest.mark.parametrize("page", PAGES)
def test_each_page_has_two_tables_or_more(page: str) -> None:
    assert sum(command.values[0] == page for command in COMMANDS) >= 2


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_the_page_says_what_its_commands_print(
    page: str,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (tmp_path / "results").symlink_to(ROOT / "results")
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) > 8
    written = (ROOT / "docs" / page).read_text("utf-8").splitlines()
    assert [line for line in lines if line not in written] == []
    for picture in (tmp_path / "docs").iterdir():
        assert picture.read_bytes() == (ROOT / "docs" / picture.name).read_bytes()


def test_the_readme_shows_what_the_committed_run_of_the_demo_prints(capsys: pytest.CaptureFixture[str]) -> None:
    console(120).print(summary_table(read(ROOT / "results" / "intel-xeon-2-cores" / "720p.jsonl").rows))
    printed = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
    shown = (ROOT / "README.md").read_text("utf-8").partition("```text\n")[2].partition("\n```")[0].splitlines()
    assert shown == printed
