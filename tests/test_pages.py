"""The tables of docs/native-training.md are those of the committed runs."""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "native-training.md").read_text()
COMMANDS = [
    shlex.split(command)
    for command in PAGE.replace("\\\n", " ").splitlines()
    if command.startswith("python scripts/mini_tables.py")
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_page_says_what_its_commands_print(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", command[1:])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(command[1], run_name="__main__")
    assert ended.value.code == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) > 8
    assert [line for line in lines if line not in PAGE.splitlines()] == []
