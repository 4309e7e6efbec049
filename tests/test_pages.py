"""The tables of pages about committed runs are what the commands on the page print."""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"native-training.md": "python scripts/mini_tables.py", "training-free.md": "python scripts/clips_table.py"}
COMMANDS = [
    pytest.param(page, shlex.split(command), id=f"{page}-{number}")
    for page, script in PAGES.items()
    for number, command in enumerate((ROOT / "docs" / page).read_text("utf-8").replace("\\\n", " ").splitlines())
    if command.startswith(script)
]


@pytest.mark.parametrize("page", PAGES)
def test_each_page_has_two_tables_or_more(page: str) -> None:
    assert sum(command.values[0] == page for command in COMMANDS) >= 2


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_the_page_says_what_its_commands_print(
    page: str, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", command[1:])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(command[1], run_name="__main__")
    assert ended.value.code == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) > 8
    written = (ROOT / "docs" / page).read_text("utf-8").splitlines()
    assert [line for line in lines if line not in written] == []
