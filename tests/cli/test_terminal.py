"""Terminals and logs that cannot hold everything, and text from outside that would steer them."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.table import Table
from rich.text import Text
from safetensors.torch import save_file

import attnbench.cli
from attnbench.cli import main
from attnbench.cli.terminal import say, sturdy_streams
from attnbench.report.terminal.console import console
from attnbench.report.terminal.shown import shown
from attnbench.results.load import read

RUN = [
    "run", "--method", "sta", "--set", "tile=2,2,2", "--grid", "3x4x4", "--heads", "1", "--head-dim", "16",
    "--inputs", "gaussian", "--device", "cpu", "--rounds", "3",
]  # fmt: skip
HOSTILE = ["\x1b]0;title\x07", "\x1b[2J\x1b[1;31m", "\x9b31m", "\r\x08\x08", "\u202eevil", "\x1b[", "\ud800", "[/red]"]
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800]")


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the same cell: a, and b, in which the method got ten times slower."""
    folder = tmp_path_factory.mktemp("journals")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["attnbench", *RUN, "--out", str(folder / "a")])
        with pytest.raises(SystemExit):
            main()
    lines, slow = [], None
    for line in reversed((folder / "a" / "journal.jsonl").read_text().splitlines()):
        fields = json.loads(line)
        if fields["kind"] == "sample" and fields["cell_id"] == slow:
            fields["cold_ms"] *= 10
        if fields["kind"] == "row" and fields["method"] == "sta":
            slow = fields["cell_id"]
            for name in ("latency_ms", "latency_lo_ms", "latency_hi_ms"):
                fields[name] *= 10
            fields["samples_ms"] = [10 * value for value in fields["samples_ms"]]
            fields["speedup"] /= 10
            fields["translation"] /= 10
        lines.append(json.dumps(fields))
    (folder / "b").mkdir()
    (folder / "b" / "journal.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    return folder


def call(monkeypatch: pytest.MonkeyPatch, stdout: Any, *words: str) -> object:
    """Run a command with this standard output, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["attnbench", *words])
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert sys.stdout is stdout
    return exit_.value.code


COMMANDS = [
    ["ls", "methods"],
    ["flops", "--paper", "vmoba"],
    ["compare", "a", "a"],
    ["compare", "a", "b"],
    ["history", "."],
    ["show", "--method", "sta", "--out", "pictures"],
    ["doctor"],
    ["report", "a", "--out", "page.html"],
    RUN,
    ["compare", "a", "nowhere"],
]


@pytest.mark.parametrize(
    "words",
    [pytest.param(each, marks=pytest.mark.slow if number % 2 else ()) for number, each in enumerate(COMMANDS)],
    ids=lambda words: " ".join(words[:3]),
)
def test_a_stream_that_takes_nothing_changes_neither_exit_code_nor_result(
    words: list[str],
    journals: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / name).symlink_to(journals / name)
    wanted = call(monkeypatch, io.StringIO(), *words)
    assert wanted in (1, 3) or words[-1] != "b"
    capsys.readouterr()
    with (tmp_path / "log").open("w", encoding="ascii") as log:
        assert call(monkeypatch, log, *words) == wanted
    assert (tmp_path / "log").read_bytes().isascii()
    assert "Traceback" not in capsys.readouterr().err

    with open("/dev/full", "w") as full:
        assert call(monkeypatch, full, *words) == wanted
    said = capsys.readouterr().err
    assert ("standard output is not complete: No space left on device" in said) == (wanted != 2)

    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        assert call(monkeypatch, gone, *words) == wanted
    assert "not complete" not in capsys.readouterr().err
    if words is RUN:
        assert len(list((tmp_path / "results" / "runs").glob("*/journal.jsonl"))) == 4


def test_a_character_that_the_log_lacks_is_written_in_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as log, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", log)
        with sturdy_streams():
            say("2.94× – 0.3 … ü")
            console().print("2.94× – 0.3 … ü")
    assert (tmp_path / "log").read_text(encoding="ascii") == 2 * "2.94x - 0.3 ... \\xfc\n"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_from_outside_is_shown_as_text(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(hostile, title=hostile)
    table.add_row(hostile)
    table.add_row(Text(hostile))
    out = console(200)
    out.print(table)
    out.print(f"x{hostile}y")
    say(f"x{hostile}y")
    say(f"x{hostile}y", error=True)
    printed = "".join(capsys.readouterr())
    assert not STEERING.search(printed)
    assert printed.count(f"x{shown(hostile)}y") >= 2  # rich leaves some control characters out


def test_what_is_shown_of_a_control_character_names_it() -> None:
    assert shown("a\x1b[31m\u202e\tb\nc") == "a\\x1b[31m\\u202e\tb\nc"
    assert shown("Gitter × 3 – ümlaut 漢字") == "Gitter × 3 – ümlaut 漢字"


@pytest.mark.parametrize("hostile", HOSTILE[:4])
def test_errors_quote_what_was_typed_as_text(
    hostile: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (
        ["run", "--method", hostile],
        ["ls", hostile],
        ["compare", hostile],
        [hostile],
        ["show", f"--{hostile}"],
    ):
        monkeypatch.setattr(sys, "argv", ["attnbench", *words])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == 2
        assert not STEERING.search("".join(capsys.readouterr()))


def test_commands_print_only_through_this_module() -> None:
    for path in sorted((Path(attnbench.cli.__file__)).parent.glob("*.py")):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "typer.echo", "sys.stdout.write"):
                printed = ast.unparse(node.args[0])
                assert printed.startswith(("json.dumps(", "f'attnbench {__version__}'")), (path.name, printed)
            assert not (isinstance(node, ast.ImportFrom) and node.module == "rich.console"), path.name


def test_a_run_whose_readers_went_away_measures_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``attnbench run … 2>&1 | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", gone)
        assert call(patch, gone, *RUN, "--out", str(tmp_path / "run")) == 0
    assert [row.verdict for row in read(tmp_path / "run").rows] == ["ok"]


@pytest.mark.parametrize("hostile", HOSTILE[:4])
def test_metadata_of_a_capture_is_quoted_as_text(
    hostile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {name: torch.randn(1, 1, 48, 16) for name in "qkv"}
    save_file(tensors, tmp_path / "a.safetensors", {"grid": hostile})
    words = ["run", "--grid", "3x4x4", "--heads", "1", "--head-dim", "16", "--device", "cpu", "--rounds", "3"]
    monkeypatch.setattr(sys, "argv", ["attnbench", *words, "--inputs", f"capture:{tmp_path / 'a.safetensors'}"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main()
    said = capsys.readouterr().err
    assert exit_.value.code == 2
    assert "has token grid" in said
    assert not STEERING.search(said)
