"""Rows of attention over two gloo ranks, by the command line, and what it refuses."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import attnbench
from attnbench.kernels.errors import BadInput, RankLost
from attnbench.scale import ranks

if not dist.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

Command = Callable[..., tuple[int, str, str]]
CASE = "--method vmoba --layers 2 --grid 3x4x5 --text-tokens 3+4 --heads 4 --kv-heads 2 --head-dim 16 --rounds 2"


def run(words: str, *, program: str = "-m attnbench") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(
        [sys.executable, *shlex.split(f"{program} {words} --device cpu --stability-calls 2 --budget 1 --quiet")],
        capture_output=True, text=True, timeout=300, env=environment | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("group") / "run"
    ended = run(f"profile --gpus 2 --direction fwdbwd --repeats 1 --no-trace --out {folder} {CASE}")
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout


def test_a_row_over_two_ranks_has_what_it_gains(measured: tuple[Path, str]) -> None:
    (row,) = attnbench.load_results(measured[0]).to_dict("records")
    assert (row["verdict"], row["gpus"], row["parallel"], row["heads_timed"]) == ("ok", 2, "ulysses", 4)
    assert row["ideal_ms"] == pytest.approx(row["one_ms"] / 2)
    assert row["speedup"] == pytest.approx(row["baseline_ms"] / row["latency_ms"])
    assert row["imbalance"] >= 1
    assert 0 < row["exchange_ms"] < row["latency_ms"]
    assert row["parallel_error"] < 1e-5
    # Forward, 2 + 1 + 1 heads of q, k and v leave a rank, and 2 heads of output for the tokens of the other one.
    # Backward, the same go the other way.
    assert row["sent_mib"] * 2**20 == 4 * 16 * 67 * (2 + 1 + 1 + 2)


def test_exchanges_are_a_phase_of_both_passes(measured: tuple[Path, str]) -> None:
    phases = attnbench.load_phases(measured[0])
    found = phases[phases["phase"] == "communicate"]
    assert set(found["pass"]) == {"fwd", "bwd"}
    assert (found["time_ms"] > 0).all()
    assert {"attend", "score", "select"} <= set(phases["phase"])


def test_the_terminal_compares_with_the_ideal(measured: tuple[Path, str]) -> None:
    said = measured[1]
    assert "one process, ms" in said
    assert "ulysses" in said


def test_such_a_row_is_another_cell_and_says_how_to_measure_it_again(
    measured: tuple[Path, str], command_line: Command
) -> None:
    (row,) = attnbench.load_results(measured[0]).to_dict("records")
    code, said, _ = command_line("repro", row["row_id"], measured[0])
    assert code == 0
    assert "--gpus 2 --parallel ulysses" in said
    code, said, error = command_line("run", "--resume", measured[0])
    assert code == 2
    assert "is a run over 2 ranks, which is not resumed: run it again" in error


@pytest.mark.slow
def test_torchrun_starts_the_ranks_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    launcher = "-m torch.distributed.run --standalone --nproc-per-node 2 -m attnbench"
    ended = run(f"run --gpus 2 --parallel allgather --out {folder} {CASE}", program=launcher)
    assert ended.returncode == 0, ended.stderr
    (row,) = attnbench.load_results(folder).to_dict("records")
    assert (row["verdict"], row["gpus"], row["parallel"]) == ("ok", 2, "allgather")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--gpus 1", "--gpus is 1; give the number of ranks, at least 2"),
        ("--parallel ulysses", "--parallel is for --gpus"),
        ("--gpus 3", "3 ranks are more than the heads (2)"),
        ("--gpus 2 --parallel rings", "unknown way of parallel 'rings'"),
        ("--gpus 99 --parallel allgather", "--gpus is 99, and the grid 3x4x5 has 60 tokens"),
        ("--gpus 2 --density 0.5", "--density is not possible with --gpus"),
        ("--gpus 2 --isolate", "--isolate is not possible with --gpus"),
        ("--gpus 2 --out {there}", "is not a writable folder"),
    ],
)
def test_what_cannot_be_is_said_before_a_rank_starts(
    words: str, said: str, tmp_path: Path, command_line: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "start", lambda *arguments: pytest.fail("a rank was started"))
    (tmp_path / "file").write_text("")
    given = words.format(there=tmp_path / "file" / "run").split()
    code, _, error = command_line("run", "--method", "full", "--grid", "3x4x5", "--heads", 2, "--device", "cpu", *given)
    assert code == 2
    assert said in error


def test_the_number_of_ranks_must_be_that_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match="--gpus is 2, and torchrun started 4 ranks: give both the same"):
        ranks.check_count(2, torch.device("cpu"))


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            "import os, time; os._exit(9) if os.environ['RANK'] == '1' else time.sleep(60)",
            "rank 1 of 2 ended with exit",
        ),
        (
            "import os, time; os.kill(os.getpid(), 9) if os.environ['RANK'] == '0' else time.sleep(60)",
            "rank 0 of 2 was",
        ),
    ],
)
def test_a_rank_that_ends_ends_the_others(program: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_PROGRAM", f"import os, time; {program}")
    monkeypatch.setattr(ranks, "GRACE", 0.2)
    with pytest.raises(RankLost, match=said):
        ranks.start(2, ["run"])


def test_what_rank_0_prints_and_its_exit_code_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_PROGRAM", "import os, sys; print('rank', os.environ['RANK'], sys.argv[1])")
    assert ranks.start(2, ["run"]) == (0, "rank 0 run\n")


def test_rows_that_are_wrong_keep_their_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_PROGRAM", "import os, sys; sys.exit(1 if os.environ['RANK'] == '0' else 0)")
    assert ranks.start(2, ["run"]) == (1, "")
