"""Rows of attention over two gloo ranks, begun and continued, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import attnbench
from attnbench.kernels.errors import BadInput, RankLost
from attnbench.machine.signals import Stopped
from attnbench.results.journal import JOURNAL
from attnbench.scale import ranks

if not dist.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

Command = Callable[..., tuple[int, str, str]]
CREW = Path(__file__).with_name("crew.py")
CASE = "--method vmoba --layers 2 --grid 3x4x5 --text-tokens 3+4 --heads 4 --kv-heads 2 --head-dim 16"
TIMED = "--device cpu --inputs gaussian --rounds 2 --stability-calls 2 --budget 1 --quiet"
STEP_CASE = "--method sta:tile=(1,2,2) --direction fwdbwd --checkpointing --grid 2x4x4 --batch 2 --text-tokens 5"
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
FIRST, RESUMED, UNLIKE, AGAIN, STEP, BALANCED, SPOILED = range(7)


class Measured:
    """What two ranks said and wrote in one call after another.

    Attributes:
        folder: with ``run``, a profiled run, and ``cut``, the same run interrupted after its first round and resumed.
        before: the journal of the former before it was asked to go on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        asked = f"{CASE} {TIMED}"
        first = f"profile --gpus 2 --direction fwdbwd --repeats 1 {asked} --out {folder / 'run'}".split()
        resumed = f"run --quiet --resume {folder / 'cut'}".split()
        unlike = [f"run --gpus 2 {asked} --seed {rank} --out {folder / 'unlike'}".split() for rank in range(2)]
        again = f"profile --quiet --resume {folder / 'run'}".split()
        step = f"step --gpus 2 --device cpu {STEP_CASE} --rounds 1 --quiet --out {folder / 'step'}".split()
        spoiled = [*step[:-1], str(folder / "spoiled")]
        unequal = "--method sparge:topk=(1,1,0.25,0.25),block=(8,8) --method full --grid 4x6x6 --heads 4 --head-dim 16"
        balanced = f"run --gpus 2 --parallel balanced {unequal} {TIMED} --out {folder / 'balanced'}".split()
        calls = [
            {"words": [first, first]},
            {"words": [resumed, resumed], "cut": ["run", "cut", 1]},
            {"words": unlike},
            {"words": [again, again]},
            {"words": [step, step]},
            {"words": [balanced, balanced]},
            {"words": [spoiled, spoiled], "spoiled": True},
        ]
        (folder / "calls.json").write_text(json.dumps(calls))
        ended = subprocess.run(
            [sys.executable, str(CREW), str(folder)], capture_output=True, text=True, timeout=300, env=ENVIRONMENT
        )
        assert ended.returncode == 0, ended.stderr
        self.before = (folder / "whole").read_bytes()
        self.said: list[list[tuple[int, str]]] = json.loads((folder / "said.json").read_text())


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    found = Measured(tmp_path_factory.mktemp("group"))
    assert [code for code, _ in found.said[FIRST]] == [0, 0], found.said[FIRST]
    return found


def test_a_row_over_two_ranks_has_what_it_gains(measured: Measured) -> None:
    (row,) = attnbench.load_results(measured.folder / "run").to_dict("records")
    assert (row["verdict"], row["gpus"], row["parallel"], row["heads_timed"]) == ("ok", 2, "ulysses", 4)
    assert row["ideal_ms"] == pytest.approx(row["one_ms"] / 2)
    assert row["speedup"] == pytest.approx(row["baseline_ms"] / row["latency_ms"])
    assert row["imbalance"] >= 1
    assert 0 < row["exchange_ms"] < row["latency_ms"]
    assert row["parallel_error"] < 1e-5
    # Forward, 2 + 1 + 1 heads of q, k and v leave a rank, and 2 heads of output for the tokens of the other one.
    # Backward, the same go the other way.
    assert row["sent_mib"] * 2**20 == 4 * 16 * 67 * (2 + 1 + 1 + 2)


def test_exchanges_are_a_phase_of_both_passes(measured: Measured) -> None:
    phases = attnbench.load_phases(measured.folder / "run")
    found = phases[phases["phase"] == "communicate"]
    assert set(found["pass"]) == {"fwd", "bwd"}
    assert (found["time_ms"] > 0).all()
    assert {"attend", "score", "select"} <= set(phases["phase"])
    assert len(list((measured.folder / "run" / "traces").glob("*.json.gz"))) == 1, "one of rank 0"


def test_the_terminal_compares_with_the_ideal(measured: Measured) -> None:
    (_, said), (_, other) = measured.said[FIRST]
    assert "one process, ms" in said
    assert "ulysses" in said
    assert other == ""


def test_an_interrupted_run_goes_on_with_its_samples(measured: Measured) -> None:
    (code, said), (other, _) = measured.said[RESUMED]
    assert (code, other) == (0, 0), said
    assert "resumed: 2 of 2 earlier samples count" in said
    lines = [json.loads(line) for line in (measured.folder / "cut" / JOURNAL).read_text().splitlines()]
    samples = [line for line in lines if line["kind"] == "sample"]
    assert sorted(each["round"] for each in samples) == [0, 0, 1, 1], "the baseline's and the method's, each once"
    whole, resumed = (attnbench.load_results(measured.folder / name) for name in ("run", "cut"))
    same = ["cell_id", "verdict", "gpus", "parallel", "baseline", "density", "sent_mib"]
    assert whole[same].to_dict("records") == resumed[same].to_dict("records")
    (row,) = resumed.to_dict("records")
    assert len(row["samples_ms"]) == 2


def test_a_finished_run_is_left_alone(measured: Measured) -> None:
    (code, said), (other, _) = measured.said[AGAIN]
    assert (code, other) == (0, 0), said
    assert "nothing left to do: every cell of this run has its row" in said
    assert "communicate" in said, "its phases are shown again"
    assert (measured.folder / "run" / JOURNAL).read_bytes() == measured.before


def test_ranks_that_were_asked_for_other_things_all_say_so(measured: Measured) -> None:
    for code, said in measured.said[UNLIKE]:
        assert code == 2
        assert "seed is 0 on rank 0 and 1 on rank 1; all ranks of a run must be started alike" in said
    assert not (measured.folder / "unlike").exists()


def test_such_a_row_is_another_cell_and_says_how_to_measure_it_again(measured: Measured, command_line: Command) -> None:
    (row,) = attnbench.load_results(measured.folder / "run").to_dict("records")
    code, said, _ = command_line("repro", row["row_id"], measured.folder / "run")
    assert code == 0
    assert "--gpus 2 --parallel ulysses" in said


def test_a_training_step_over_two_ranks_is_that_of_one_process(measured: Measured) -> None:
    (code, said), (other, silent) = measured.said[STEP]
    assert (code, other, silent) == (0, 0, ""), said
    assert "A training step of Wan 2.1 tiny with 2 heads, 2×4×4 tokens over 2 ranks" in said
    assert "so 2 ranks are" in said
    own, full, sta = (json.loads(line) for line in (measured.folder / "step" / JOURNAL).read_text().splitlines()[1:])
    assert [own["name"], full["name"], sta["name"]] == ["own", "full/sdpa", "sta/reference"]
    for record in (own, full, sta):
        assert (record["gpus"], record["parallel"]) == (2, "ulysses")
        assert record["one_ms"] > 0
        assert record["parallel_error"] < 1e-5, "output, attention of every layer, gradients of all weights"
    assert own["sent_mib"] is None, "its exchanges are those of diffusers"
    # 1 of 2 heads of q, k, v and of the output, of half of 32 tokens, for 2 sequences of 3 layers: forward, forward
    # again in the backward pass, and back.
    for record in (full, sta):
        assert record["sent_mib"] * 2**20 == 4 * 16 * 24 * 4 * 2 * 3 * 3


def test_a_step_that_differs_from_one_process_leaves_no_record(measured: Measured) -> None:
    for code, said in measured.said[SPOILED]:
        assert code == 2
        assert "the step with own over 2 ranks differs from that of one process by" in said
    assert not (measured.folder / "spoiled").exists()


def test_heads_of_unequal_density_are_dealt_evenly(measured: Measured) -> None:
    (code, said), (other, _) = measured.said[BALANCED]
    assert (code, other) == (0, 0), said
    rows = {row["method"]: row for row in attnbench.load_results(measured.folder / "balanced").to_dict("records")}
    sparge, full = rows["sparge"], rows["full"]
    assert {row["parallel"] for row in rows.values()} == {"balanced"}
    # In order, a rank has both of the heads that keep all pairs: 2 of 4 heads' pairs. Dealt evenly, it has half of
    # what is kept, which is the density times 4, so the former over the latter is the density's inverse.
    assert sparge["density"] < 0.7
    assert sparge["balance_gain"] == pytest.approx(1 / sparge["density"])
    assert full["balance_gain"] == 1
    assert sparge["parallel_error"] < 1e-5
    assert "balance" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--gpus 3", "--gpus is 3, and the step has 2 heads: diffusers' context parallelism shares them out evenly"),
        ("--gpus 2 --grid 1x3x5", "--gpus is 2, and the step has 15 tokens"),
        ("--gpus 2 --parallel allgather", "--parallel allgather is not possible with a step; ulysses is"),
        ("--gpus 1", "--gpus is 1; give the number of ranks, at least 2, as --gpus 2"),
        ("--parallel ulysses", "--parallel is for --gpus"),
    ],
)
def test_a_step_that_cannot_be_spread_is_refused(words: str, said: str, command_line: Command) -> None:
    code, _, error = command_line("step", "--device", "cpu", *words.split())
    assert code == 2
    assert said in error


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["", "-m torch.distributed.run --standalone --nproc-per-node 2"])
def test_ranks_are_started_and_torchrun_starts_them_as_well(launcher: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    asked = f"run --gpus 2 --parallel allgather --rounds 2 --out {folder} {CASE} --device cpu --budget 1"
    ended = subprocess.run(
        [sys.executable, *shlex.split(f"{launcher} -m attnbench {asked}")], capture_output=True, text=True, timeout=300,
        env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
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


def test_three_ranks_with_uneven_heads_give_rows(tmp_path: Path) -> None:
    words = f"run --gpus 3 --parallel ulysses --method full {CASE} {TIMED} --out {tmp_path / 'three'}".split()
    ended = subprocess.run(
        [sys.executable, "-m", "attnbench", *words], capture_output=True, text=True, timeout=200, env=ENVIRONMENT
    )
    assert ended.returncode == 0, ended.stderr
    rows = attnbench.load_results(tmp_path / "three")
    assert list(rows["verdict"]) == ["ok"] * len(rows)
    assert set(rows["method"]) == {"full", "vmoba"}
    assert set(rows["gpus"]) == {3}
    assert (rows["parallel_error"] < 1e-5).all()


def test_an_interrupt_while_ranks_run_has_its_exit_code(command_line: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(count: int, words: list[str]) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(ranks, "start", interrupted)
    code, _, _ = command_line(
        *["run", "--method", "full", "--grid", "3x4x5", "--heads", "2", "--device", "cpu", "--gpus", "2"]
    )
    assert code == 143


def test_a_lost_rank_is_no_bad_input(command_line: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ranks, "_PROGRAM", "import os, time; os._exit(9) if os.environ['RANK'] == '1' else time.sleep(60)"
    )
    monkeypatch.setattr(ranks, "GRACE", 0.2)
    code, _, said = command_line(
        *["run", "--method", "full", "--grid", "3x4x5", "--heads", "2", "--device", "cpu", "--gpus", "2"]
    )
    assert code == 1
    assert "rank 1 of 2 ended with exit code 9, so there is no result of all ranks" in said


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


WAITING = """
import os, pathlib, signal, sys, time

place = pathlib.Path(sys.argv[1], os.environ["RANK"])


def leave(number, frame):
    place.write_text("left")
    sys.exit(143)


signal.signal(signal.SIGTERM, leave)
place.write_text("here")
time.sleep(60)
"""


def test_interrupted_ranks_may_say_what_they_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / str(rank) for rank in range(2)]

    def interrupt(started: object) -> None:
        limit = time.monotonic() + 60
        while not all(place.exists() and place.read_text() for place in places):
            assert time.monotonic() < limit
            time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(ranks, "_PROGRAM", WAITING)
    monkeypatch.setattr(ranks, "_ALONE", 0.0)
    monkeypatch.setattr(ranks, "_waited_for", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ranks.start(2, [str(tmp_path)])
    assert [place.read_text() for place in places] == ["left", "left"]


@pytest.mark.parametrize(
    ("changed", "kind", "said"),
    [
        ({"RANK": "first"}, BadInput, "RANK is 'first' in the environment; torchrun sets it to a whole number"),
        ({}, RankLost, "rank 1 of 2 met not all others at 127.0.0.1:"),
    ],
)
def test_ranks_that_cannot_meet_say_so(
    changed: dict[str, str], kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        place = {
            "RANK": "1",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(closed.getsockname()[1]),
        }
        for name, value in (place | changed).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(ranks, "_MEETING", timedelta(seconds=0.2))
        with pytest.raises(kind, match=re.escape(said)), ranks.joined(torch.device("cpu")):
            pass
