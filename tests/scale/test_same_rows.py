"""One suite gives the same rows on every engine, also after workers and drivers were killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import attnbench
from attnbench.results.journal import JOURNAL

pytestmark = pytest.mark.slow

SUITE = """
[defaults]
grid = "4x6x8"
heads = 1
head_dim = 32
inputs = "gaussian"
rounds = 60
device = "cpu"
stability_calls = 2

[[cells]]
name = "first"
method = ["sta:tile=(2,2,2)", "moba:blocks=8,topk=2"]

[[cells]]
name = "second"
command = "profile"
method = "vmoba"
rounds = 12
repeats = 1
trace = false

[[cells]]
name = "curve"
command = "sweep"
over = "density"
points = "0.3,0.6"
method = "sliding-window"
rounds = 3
"""
COLUMNS = ["cell_id", "verdict", "method", "settings", "heads_timed", "baseline", "density"]
ENGINES = {"local": "local", "submitit": "slurm:cluster=local", "ray": "ray:address=local,gpus=1"}
PACKAGE = {"submitit": "submitit", "ray": "ray"}


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "attnbench", "run", "--suite", str(folder.parent / "suite.toml"), *words]


def run(folder: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(command(folder, *words), capture_output=True, text=True, timeout=600, cwd=folder.parent)
    return done.returncode, done.stdout + done.stderr


def rows(folder: Path) -> set[tuple[object, ...]]:
    table = attnbench.load_results(folder)
    assert table["cell_id"].is_unique
    return set(table[COLUMNS].itertuples(index=False, name=None))


def processes(folder: Path) -> list[int]:
    """The processes that call the command of a cell in this folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(b"import prepare" in word for word in words) and any(bytes(folder) in word for word in words):
            found.append(int(place.parent.name))
    return found


def samples(place: Path) -> int:
    """How many samples a cell has so far."""
    journal = place / JOURNAL
    return journal.read_text().count('"kind": "sample"') if journal.exists() else 0


def wait_for_samples(place: Path, count: int, driver: subprocess.Popen[str], waiting: ModuleType) -> None:
    def enough() -> bool:
        if samples(place) >= count:
            return True
        assert driver.poll() is None, driver.communicate()
        return False

    waiting.until(enough, f"sample {count} of {place.name}")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[object, ...]]:
    """The rows of the suite where no engine is asked for."""
    folder = tmp_path_factory.mktemp("plain") / "made"
    (folder.parent / "suite.toml").write_text(SUITE)
    code, said = run(folder, "--out", str(folder))
    assert code == 0, said
    found = rows(folder)
    assert len(found) >= 6
    return found


@pytest.mark.parametrize(("begun_on", "resumed_on"), [("local", "submitit"), ("submitit", "ray"), ("ray", "local")])
def test_killed_and_resumed_on_another_engine_a_suite_has_the_same_rows(
    tmp_path: Path, expected: set[tuple[object, ...]], begun_on: str, resumed_on: str, waiting: ModuleType
) -> None:
    for engine in {begun_on, resumed_on} & PACKAGE.keys():
        pytest.importorskip(PACKAGE[engine], reason=f"needs {PACKAGE[engine]}")
    folder = tmp_path / "made"
    (tmp_path / "suite.toml").write_text(SUITE)

    # The worker of the first cell is killed in the middle: a verdict, and the other cells go on.
    words = command(folder, "--only", "first", "--on", ENGINES[begun_on], "--out", str(folder))
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    wait_for_samples(folder / "first", 4, driver, waiting)
    os.kill(min(processes(folder)), signal.SIGKILL)  # one that it is just starting may look like it
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 1, said
    assert "first: its worker was killed by SIGKILL" in said
    dead = attnbench.load_results(folder)
    assert set(dead["verdict"]) == {"crashed"}
    assert len(dead) == 2

    # The driver is killed in the middle: what was measured is on disk.
    words = command(folder, "--on", ENGINES[begun_on], "--resume", str(folder))
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    wait_for_samples(folder / "second", 2, driver, waiting)
    driver.kill()
    driver.communicate()
    # Those of submitit go on by themselves, the others end.
    waiting.until(lambda: not processes(folder), "the end of the workers")

    code, said = run(folder, "--on", ENGINES[resumed_on], "--resume", str(folder))
    assert code == 0, said
    assert rows(folder) == expected
    before = {path: path.read_bytes() for path in folder.rglob(JOURNAL)}
    code, said = run(folder, "--on", ENGINES[begun_on], "--resume", str(folder))
    assert code == 0, said
    assert {path: path.read_bytes() for path in folder.rglob(JOURNAL)} == before
