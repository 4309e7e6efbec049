"""Runs whose processes are killed again and again, whose folder is deleted or wanted twice: nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attnbench.results.journal import JOURNAL

PROGRAM = [sys.executable, "-c", "from attnbench.cli import main; main()"]
SHAPE = [
    "--grid", "2x4x5", "--heads", "1", "--head-dim", "16", "--inputs", "gaussian", "--device", "cpu", "--rounds", "3",
]  # fmt: skip


def command(cells: int, *more: str) -> list[str]:
    """A run of so many cells."""
    methods = [word for width in range(cells) for word in ("--method", f"sliding-window:width={width}")]
    return [*PROGRAM, "run", *methods, *SHAPE, *more]


def started(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_usual_signals)


def _usual_signals() -> None:  # whoever runs tests in the background ignores some
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def records(path: Path, kind: str) -> list[dict[str, Any]]:
    whole = path.read_text(errors="replace").split("\n")[:-1] if path.exists() else []
    return [line for line in map(json.loads, whole) if line["kind"] == kind]


def worker_of(pid: int) -> int | None:
    """The process of a cell that a run has started, once it works."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def wait_for_lines(process: subprocess.Popen[str], path: Path, count: int, waiting: ModuleType) -> bool:
    """Wait until the journal holds so many lines; return False if the run ends before."""

    def held() -> bool:
        return path.exists() and path.read_bytes().count(b"\n") >= count

    waiting.until(lambda: held() or process.poll() is not None, f"line {count} of the journal")
    return process.poll() is None


def kill_again_and_again(folder: Path, cells: int, kills: int, waiting: ModuleType, *more: str) -> None:
    """Kill the run, or the process of its cell, at random lines of the journal, and resume it until it is whole."""
    draw, path = random.Random(5), folder / JOURNAL
    kept: list[dict[str, Any]] = []
    words, killed, ends = command(cells, *more, "--out", str(folder)), 0, 0
    while True:
        process = started(words)
        held = path.read_bytes().count(b"\n") if path.exists() else 0
        ahead = draw.randrange(1, max(2, 4 * cells // kills))
        if killed < kills and wait_for_lines(process, path, held + ahead, waiting):
            worker = worker_of(process.pid) if "--isolate" in more else None
            victim = worker if "--isolate" in more and killed % 2 else process.pid
            if victim is not None:
                with contextlib.suppress(ProcessLookupError):  # the process of a cell may have ended by itself
                    os.kill(victim, signal.SIGKILL)
                    killed += 1
            if worker is not None:  # it must not outlive its run
                waiting.until_gone(worker)
        _, said = process.communicate(timeout=600)
        assert "Traceback" not in said, said
        if path.exists():
            words = [*PROGRAM, "run", "--resume", str(folder)]
            taken = records(path, "sample")
            assert taken[: len(kept)] == kept, "no sample is lost"
            kept = taken
        ends += 1
        assert ends < 3 * kills + 5
        if process.returncode == 0:
            break
    assert killed > kills // 2, "the run ended before it was killed often enough"
    rows = {row["cell_id"]: row for row in records(path, "row")}
    assert len(rows) == cells
    assert {row["verdict"] for row in rows.values()} == {"ok"}
    for row in rows.values():
        assert len(row["samples_ms"]) == 3
    if "--isolate" not in more:
        assert set(Counter((each["cell_id"], each["round"]) for each in kept).values()) == {1}


def test_a_run_may_be_killed(tmp_path: Path, waiting: ModuleType) -> None:
    kill_again_and_again(tmp_path / "apart", 2, 1, waiting, "--isolate")


@pytest.mark.slow
def test_a_run_of_two_hundred_cells_may_be_killed_ten_times(tmp_path: Path, waiting: ModuleType) -> None:
    kill_again_and_again(tmp_path / "shared", 200, 10, waiting)


@pytest.mark.slow
def test_processes_of_cells_and_their_run_may_be_killed_ten_times(tmp_path: Path, waiting: ModuleType) -> None:
    kill_again_and_again(tmp_path / "apart", 12, 10, waiting, "--isolate")


def test_a_run_whose_folder_is_deleted_writes_it_again(tmp_path: Path, waiting: ModuleType) -> None:
    folder = tmp_path / "run"
    process = started(command(1, "--rounds", "40", "--out", str(folder)))
    assert wait_for_lines(process, folder / JOURNAL, 5, waiting)
    waiting.stop(process.pid)  # else it could write its journal anew before the folder is gone
    shutil.rmtree(folder)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert "was deleted while it was written; its journal was written anew" in said
    assert len(records(folder / JOURNAL, "run")) == 1
    assert [len(row["samples_ms"]) for row in records(folder / JOURNAL, "row")] == [40]


def test_of_two_runs_into_one_folder_one_is_refused(tmp_path: Path) -> None:
    both = [started(command(2, "--out", str(tmp_path / "run"))) for _ in range(2)]
    said = [process.communicate(timeout=600)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], said
    assert "holds a run already" in said[codes.index(2)]
    assert [row["verdict"] for row in records(tmp_path / "run" / JOURNAL, "row")] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow)]
)
def test_a_signal_ends_a_run_and_the_processes_of_its_cells(
    number: int, code: int, tmp_path: Path, waiting: ModuleType
) -> None:
    folder = tmp_path / "run"
    process = started(command(2, "--rounds", "10000", "--isolate", "--out", str(folder)))
    assert wait_for_lines(process, folder / JOURNAL, 5, waiting)
    worker = worker_of(process.pid)
    assert worker is not None
    process.send_signal(number)
    _, said = process.communicate(timeout=waiting.PATIENCE)
    assert process.returncode == code, said
    assert said.splitlines()[-1].endswith(f"attnbench run --resume {folder}")
    waiting.until_gone(worker)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize(
    "words", [("compare", "a", "b"), ("report", "a"), ("history", "a"), ("train", "--train-steps", "1")]
)
def test_a_signal_ends_every_command_with_its_code_and_a_word(
    words: tuple[str, ...], number: int, code: int, command_line: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def signalled(self: object) -> None:
        signal.raise_signal(number)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("attnbench.cli.progress.TerminalProgress.__enter__", signalled)
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert command_line(*words)[::2] == (code, "attnbench: interrupted\n")
    finally:
        for each, old in before.items():
            signal.signal(each, old)


LEAVER = """
import dataclasses, os
from attnbench.methods import get_method

BASE = get_method("sliding-window")
METHOD = dataclasses.replace(BASE, name="leaver", plan=lambda *given: os._exit(0), depends_on_qk=True)
"""


def test_a_method_that_leaves_the_process_that_it_shares_costs_only_itself(
    install: Callable[..., Path], tmp_path: Path
) -> None:
    site = install("leaves", LEAVER, leaver="METHOD")
    folder = tmp_path / "run"
    words = [*PROGRAM, "run", "--method", "leaver", "--method", "sta", *SHAPE, "--in-process", "--out", str(folder)]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    rows = {row["method"]: row for row in records(folder / JOURNAL, "row")}
    assert (rows["leaver"]["verdict"], rows["leaver"]["reason"]) == ("error", "it called os._exit(0)")
    assert rows["sta"]["verdict"] == "ok"
