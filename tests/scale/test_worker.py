"""A worker: what it measures, what it refuses, and the verdicts that a dead one leaves."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

import attnbench
from attnbench.bench import session
from attnbench.bench.apart.given_up import give_up
from attnbench.bench.apart.process import End
from attnbench.bench.request import read_request
from attnbench.kernels.errors import BadInput
from attnbench.results.files import hold
from attnbench.results.journal import JOURNAL
from attnbench.results.run import NoProgress
from attnbench.scale import worker
from attnbench.scale.fleet import machine_here, require_alike
from attnbench.scale.task import WORKERS, Ended, WorkerTask, ended_before, read_ended

REQUEST = {
    "methods": {"sta": {}, "moba": {"blocks": 4, "topk": 2}}, "grid": "2x3x4", "heads": 1, "head_dim": 32,
    "inputs": "gaussian", "rounds": 3, "device": "cpu", "stability_calls": 2,
}  # fmt: skip


def served(task: WorkerTask, **changes: Any) -> Ended:
    ended = read_ended(worker.serve(task.model_copy(update=changes).model_dump_json()))
    assert ended is not None
    return ended


def half_a_run(place: Path) -> list[str]:
    """Make a run and cut its rows off; return the cells that it had."""
    rows = session.start(read_request(**REQUEST), place, NoProgress()).rows
    journal = place / JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"kind": "row"' not in line))
    return sorted(row.cell_id for row in rows)


def test_the_command_of_a_cell_runs_in_a_process_of_its_own(
    task: WorkerTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = "import os, sys; print(sys.argv[2:], os.getcwd())"
    monkeypatch.setattr(worker, "PROGRAM", shown)
    ended = served(task)
    assert (ended.exit_code, ended.reason, ended.unshared) == (0, "", False)
    assert ended.host
    assert ended_before(task) == ended
    words = ["run", *task.words, "--out", str(tmp_path / "made" / "one")]
    assert task.log.read_text().strip() == f"{words} {tmp_path}"


@pytest.mark.parametrize("driver", [None, "3"])
@pytest.mark.parametrize("of_the_engine", [None, "1"])
def test_a_cell_has_the_threads_of_its_driver_whatever_the_engine_sets(
    task: WorkerTask, monkeypatch: pytest.MonkeyPatch, driver: str | None, of_the_engine: str | None
) -> None:
    monkeypatch.setattr(worker, "PROGRAM", "import os; print(os.environ.get('OMP_NUM_THREADS'))")
    if of_the_engine is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", of_the_engine)
    assert served(task, omp_num_threads=driver).exit_code == 0
    assert task.log.read_text().strip() == str(driver)


@pytest.mark.parametrize(
    ("program", "code", "verdict", "reason"),
    [
        ("print('attnbench: no such thing'); raise SystemExit(2)", 2, None, "no such thing"),
        ("raise SystemExit(143)", 143, None, ""),
        (
            "import os; print('the last call', flush=True); os.kill(os.getpid(), 9)", 1, "crashed",
            "its worker was killed by SIGKILL, perhaps because memory ran out; its last words: the last call",
        ),
    ],
)  # fmt: skip
def test_how_the_process_of_a_cell_ends_is_told(
    task: WorkerTask, monkeypatch: pytest.MonkeyPatch, program: str, code: int, verdict: str | None, reason: str
) -> None:
    monkeypatch.setattr(worker, "PROGRAM", program)
    task.log.parent.mkdir(parents=True, exist_ok=True)
    task.log.write_text("words of an earlier worker\n")
    ended = served(task)
    assert (ended.exit_code, ended.verdict, ended.reason) == (code, verdict, reason)
    assert ended_before(task) == ended


def test_a_worker_that_does_not_see_the_folder_says_so_and_writes_nothing(task: WorkerTask, tmp_path: Path) -> None:
    for changes, why in [({"token": "0"}, "is another one"), ({"folder": str(tmp_path / "elsewhere")}, "is not there")]:
        ended = served(task, **changes)
        assert (ended.exit_code, ended.unshared) == (2, True)
        assert f"its token file {why}" in ended.reason
        assert "on a disk that all workers share" in ended.reason
    assert [path.name for path in (tmp_path / "made" / WORKERS).iterdir()] == ["token"]
    assert not (tmp_path / "elsewhere").exists()


def test_another_version_of_attnbench_is_refused(task: WorkerTask) -> None:
    ended = served(task, version="0.0.1")
    assert ended.exit_code == 2
    assert ended.reason.endswith("and the suite is run by 0.0.1")
    told = read_ended(worker.serve(json.dumps(task.model_dump() | {"of a later version": 1})))
    assert told is not None
    assert told.exit_code == 2
    assert told.reason.endswith("and cannot read the task of another version")


def test_a_folder_that_paths_are_relative_to_must_be_there(task: WorkerTask, tmp_path: Path) -> None:
    ended = served(task, cwd=str(tmp_path / "elsewhere"))
    assert (ended.exit_code, ended.verdict) == (2, None)
    assert f"has no folder {str(tmp_path / 'elsewhere')!r}" in ended.reason


def test_two_workers_do_not_measure_one_cell_at_once(task: WorkerTask) -> None:
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as log:
        hold(log.fileno(), "")
        ended = served(task)
    assert (ended.exit_code, ended.reason) == (2, "another worker measures 'one' already; wait for it to end")


def _refuse_links(source: Path, target: Path) -> None:
    raise OSError(errno.EPERM, "no links")


def test_machines_of_another_kind_are_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine_here("cpu")
    require_alike(tmp_path, "cpu", here)
    require_alike(tmp_path, "cpu", here)
    require_alike(tmp_path, "cuda", here.model_copy(update={"device": "H100", "driver": "570.1"}))
    other = here.model_copy(update={"device": "A100", "driver": "550.2"})
    monkeypatch.setattr("os.link", _refuse_links)  # as some file systems do
    require_alike(tmp_path / "unlinked", "cuda", other)
    with pytest.raises(BadInput, match="mixed machines"):
        require_alike(tmp_path / "unlinked", "cuda", here)
    with pytest.raises(BadInput, match=r"mixed machines: .* device H100, driver 570.1, .* device A100, driver 550.2;"):
        require_alike(tmp_path, "cuda", other)
    assert sorted(path.name for path in (tmp_path / WORKERS).iterdir()) == ["machine-cpu.json", "machine-cuda.json"]


def test_cells_of_a_dead_worker_get_a_verdict_each_and_are_measured_again(
    task: WorkerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = half_a_run(task.place)
    monkeypatch.setattr(worker, "PROGRAM", "import os, sys; print(sys.argv[2:4], flush=True); os.kill(os.getpid(), 11)")
    ended = served(task)
    assert ended.reason == f"its worker was killed by SIGSEGV; its last words: {['run', '--resume']}"
    table = attnbench.load_results(task.place)
    assert sorted(table["cell_id"]) == cells
    assert set(table["verdict"]) == {"crashed"}
    assert set(table["reason"]) == {ended.reason}
    assert table["latency_ms"].isna().all()
    assert give_up(task.place, End("crashed", "again")) == 0
    rows = session.resume(task.place, NoProgress()).rows
    assert sorted(row.cell_id for row in rows) == cells
    assert {row.verdict for row in rows} == {"ok"}


def test_no_rows_are_made_up_on_another_device(task: WorkerTask, monkeypatch: pytest.MonkeyPatch) -> None:
    half_a_run(task.place)
    monkeypatch.setattr("attnbench.bench.apart.given_up.device_name", lambda kind: "a login node")
    assert give_up(task.place, End("crashed", "gone")) == 0
    assert attnbench.load_results(task.place).empty
