"""Runs in a process of their own that is killed, interrupted or out of disk, and then resumed."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import attnbench
from attnbench.cli import main
from attnbench.results.journal import JOURNAL, TornLine

PROGRAM = [sys.executable, "-c", "from attnbench.cli import main; main()"]
ROUNDS = 100  # so many that a run does not end before it is stopped
RUN = [
    "run", "--method", "moba", "--method", "sta", "--set", "moba.blocks=5", "--set", "sta.tile=2,2,2",
    "--grid", "3x5x7", "--heads", "2", "--head-dim", "32", "--inputs", "gaussian", "--device", "cpu",
    "--rounds", str(ROUNDS), "--out", "run",
]  # fmt: skip
CELLS = 3  # the two, and the dense baseline


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def samples(path: Path) -> list[dict[str, Any]]:
    return [line for line in lines(path) if line["kind"] == "sample"]


def start_and_wait_for(count: int, waiting: ModuleType) -> subprocess.Popen[str]:
    """Start a run and return when its journal holds ``count`` samples."""
    process = subprocess.Popen(
        [*PROGRAM, *RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )  # fmt: skip

    def enough() -> bool:
        assert process.poll() is None, "the run ended before it could be stopped"
        return len(samples(Path("run") / JOURNAL)) >= count

    waiting.until(enough, f"sample {count}")
    return process


def resume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["attnbench", "run", "--resume", "run"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 0


def assert_finished(path: Path, before: list[dict[str, Any]]) -> None:
    """Every cell has one ok row, with the samples of before among its own and each round once."""
    after = samples(path)
    assert after[: len(before)] == before
    assert set(Counter((sample["cell_id"], sample["round"]) for sample in after).values()) == {1}
    rows = [line for line in lines(path) if line["kind"] == "row"]
    assert [row["verdict"] for row in rows] == ["ok", "ok"]
    assert len({row["cell_id"] for row in rows}) == 2
    for row in rows:
        mine = {sample["round"]: sample["cold_ms"] for sample in after if sample["cell_id"] == row["cell_id"]}
        assert sorted(row["samples_ms"]) == sorted(mine.values())
        assert sorted(mine) == list(range(ROUNDS))
    assert len(after) == CELLS * ROUNDS
    table = attnbench.load_results(path)
    assert table["verdict"].tolist() == ["ok", "ok"]
    assert len(table.attrs["environments"]) == 1


@pytest.mark.filterwarnings("default")  # as for users; here warnings are errors otherwise
def test_a_killed_run_loses_no_sample_and_is_finished(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], waiting: ModuleType
) -> None:
    process = start_and_wait_for(5, waiting)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    path = here / "run" / JOURNAL
    before = samples(path)
    assert 5 <= len(before) < CELLS * ROUNDS
    assert all(line["kind"] != "row" for line in lines(path))
    with path.open("ab") as stream:  # the line that was being written
        stream.write(b'{"kind": "sample", "cell_id": "')
    with pytest.warns(TornLine):
        assert len(attnbench.load_results(path)) == 0
    resume(monkeypatch)
    assert "is torn and was left out" in capsys.readouterr().err
    assert_finished(path, before)


def test_an_interrupted_run_says_where_it_is_and_is_finished(
    here: Path, monkeypatch: pytest.MonkeyPatch, waiting: ModuleType
) -> None:
    process = start_and_wait_for(5, waiting)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=waiting.PATIENCE)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("attnbench: interrupted")
    assert last.endswith("attnbench run --resume run")
    before = samples(here / "run" / JOURNAL)
    assert len(before) >= 5
    resume(monkeypatch)
    assert_finished(here / "run" / JOURNAL, before)


def test_a_run_that_may_write_no_more_says_so_and_is_finished(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files stands for a disk that fills up: the system writes a part and then refuses."""
    limit = 6_000
    done = subprocess.run(
        [*PROGRAM, *RUN], capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("attnbench: cannot write to 'run': File too large; what was measured before is kept")
    assert last.endswith("attnbench run --resume run")
    path = here / "run" / JOURNAL
    assert path.read_bytes().endswith(b"\n"), "the part that was written is taken back"
    before = samples(path)
    assert before
    resume(monkeypatch)
    assert_finished(path, before)


def test_a_run_that_may_write_nothing_leaves_nothing(here: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, *RUN], capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("attnbench: cannot write results to 'run': File too large")
    assert list(here.iterdir()) == []
