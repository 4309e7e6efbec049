"""The engines as they are: what each carries to a worker and back, and what it says where it cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attnbench.kernels.errors import BadInput
from attnbench.scale.drive import Engine, Job
from attnbench.scale.engines import opened
from attnbench.scale.local import LocalEngine
from attnbench.scale.ray import RayJob
from attnbench.scale.slurm import SlurmEngine, SlurmJob
from attnbench.scale.task import Ended, WorkerTask
from attnbench.scale.where import Slurm, read_where

REAL = [
    pytest.param("local", marks=pytest.mark.slow),
    pytest.param("slurm:cluster=debug", id="submitit-debug"),
    pytest.param("slurm:cluster=local", id="submitit-local", marks=pytest.mark.slow),
    pytest.param("ray:address=local,gpus=1", id="ray", marks=pytest.mark.slow),
]
Script = Callable[[str, str], None]


def outcome(job: Job, waiting: ModuleType) -> Ended:
    ended: list[Ended] = []

    def has_ended() -> bool:
        if (how := job.poll()) is not None:
            ended.append(how)
        return bool(ended)

    waiting.until(has_ended, "the end of the worker")
    return ended[0]


def need(on: str) -> None:
    for package, extra in (("submitit", "slurm"), ("ray", "ray")):
        if on.startswith(extra):
            pytest.importorskip(package, reason=f"needs attnbench[{extra}]")


@pytest.mark.parametrize("on", REAL)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_worker_of_every_engine_says_that_it_does_not_share_the_folder(
    task: WorkerTask, on: str, waiting: ModuleType
) -> None:
    need(on)
    with opened(read_where(on), Path(task.folder)) as engine:
        ended = outcome(engine.start(task.model_copy(update={"token": "of another disk"})), waiting)
    assert (ended.exit_code, ended.unshared) == (2, True)
    assert f"does not share the folder {task.folder!r}" in ended.reason


def test_each_local_worker_has_a_gpu_of_its_own(task: WorkerTask, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    class Process:
        returncode = 0

        def __init__(self, command: list[str], env: dict[str, str], **more: Any) -> None:
            given.append(env["CUDA_VISIBLE_DEVICES"])

        def poll(self) -> int:
            return 0

        def communicate(self) -> tuple[str, str]:
            return Ended(exit_code=0, host="here").model_dump_json(), ""

    monkeypatch.setattr("attnbench.scale.local.subprocess.Popen", Process)
    engine: Engine = LocalEngine(["3", "5"])
    assert engine.slots == 2
    first, _ = engine.start(task), engine.start(task)
    assert first.poll() == Ended(exit_code=0, host="here")
    engine.start(task)
    assert given == ["3", "5", "3"]


class RayError(Exception):
    pass


class FakeRay:
    """Ray, of which one task is done: with a text or an error."""

    class exceptions:
        RayError = RayError

    def __init__(self, result: str | Exception) -> None:
        self.result = result

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return references, []

    def get(self, reference: Any) -> str:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.mark.parametrize(
    ("result", "code", "reason"),
    [
        (Ended(exit_code=2, reason="no GPU", host="n1").model_dump_json(), 2, "no GPU"),
        (RayError("The worker died.\n OOM"), 1, "its worker of Ray died: RayError: The worker died. OOM"),
        ("not what we sent", 1, "its worker of Ray died: it left no result"),
    ],
)
def test_what_ray_brings_back_is_how_the_worker_ended(result: str | Exception, code: int, reason: str) -> None:
    ended = RayJob(FakeRay(result), object()).poll()
    assert ended is not None
    assert (ended.exit_code, ended.reason) == (code, reason)


class FakeJob:
    """A job of submitit that Slurm ended."""

    job_id = "71"

    def __init__(self, state: str, said: str) -> None:
        self.state, self.said = state, said

    def done(self) -> bool:
        return True

    def result(self) -> str:
        raise RuntimeError("no result")

    def stderr(self) -> str:
        return self.said


@pytest.mark.parametrize(
    ("state", "said", "verdict", "words"),
    [
        ("TIMEOUT", "round 3\nDUE TO TIME LIMIT\n", "timeout", "ended as timeout: DUE TO TIME LIMIT; it left nothing"),
        ("NODE_FAIL", "", "crashed", "ended as node_fail: no result; it left nothing"),
    ],
)
def test_a_job_that_slurm_ended_is_a_verdict(task: WorkerTask, state: str, said: str, verdict: str, words: str) -> None:
    engine = SlurmEngine(None, Slurm(), Path(task.folder), [])
    ended = SlurmJob(FakeJob(state, said), task, engine, None).poll()
    assert ended is not None
    assert (ended.exit_code, ended.verdict) == (1, verdict)
    assert words in ended.reason
    assert ended.reason.endswith("is that on a disk that the nodes share?")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Put a program on the path, which prints and ends as told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def made(name: str, body: str) -> None:
        place = folder / name
        place.write_text(f"#!/bin/sh\n{body}\n")
        place.chmod(0o755)

    return made


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_slurm_that_is_not_here_and_what_it_refuses(task: WorkerTask, script: Script) -> None:
    need("slurm")
    folder = Path(task.folder)
    with pytest.raises(BadInput, match="needs sbatch and srun"):
        SlurmEngine.made(Slurm(partition="gpu"), folder)
    script("srun", "exit 0")
    script("sbatch", "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1")
    script("sinfo", "printf 'cpu\\ngpu-h100\\n'")
    with pytest.raises(BadInput, match="unknown Slurm partition 'gpu-h10': did you mean 'gpu-h100'"):
        SlurmEngine.made(Slurm(partition="gpu-h10"), folder)
    engine = SlurmEngine.made(Slurm(partition="gpu-h100"), folder)
    with pytest.raises(BadInput, match=r"Slurm refuses the job of 'one': .*Invalid account"):
        engine.start(task)
    script("sinfo", "exit 1")  # then it is for sbatch to say
    SlurmEngine.made(Slurm(partition="gpu-h10"), folder)
