"""A suite of tiny cells, its tasks, and an engine that a test holds in its hands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from attnbench.bench.suite import SuiteCell
from attnbench.scale.drive import tasks_of
from attnbench.scale.task import Ended, WorkerTask

WORDS = (
    "--grid",
    "2x3x4",
    "--heads",
    "1",
    "--head-dim",
    "32",
    "--inputs",
    "gaussian",
    "--rounds",
    "3",
    "--device",
    "cpu",
    "--stability-calls",
    "2",
    "--method",
    "sta",
    "--method",
    "moba:blocks=4,topk=2",
)


class Notes:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.notes: list[str] = []

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        self.steps.append(label)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, folder: str) -> None:
        pass


@dataclass
class HandEngine:
    """Ends the worker of a cell as ``ends`` says, one look after it was started."""

    ends: dict[str, Ended] = field(default_factory=dict)
    slots: int | None = None
    width: int | None = None
    here: bool = True
    pause: float = 0.0
    begun: list[str] = field(default_factory=list)
    running: int = 0
    most: int = 0
    stopped: list[str] = field(default_factory=list)

    def start(self, task: WorkerTask) -> HandJob:
        self.begun.append(task.name)
        self.running += 1
        self.most = max(self.most, self.running)
        return HandJob(self, task.name)

    def close(self) -> None:
        pass


@dataclass
class HandJob:
    engine: HandEngine
    name: str
    looks: int = 0

    def poll(self) -> Ended | None:
        self.looks += 1
        if self.looks < 2:
            return None
        self.engine.running -= 1
        return self.engine.ends.get(self.name, Ended(exit_code=0, host="here"))

    def stop(self) -> None:
        self.engine.stopped.append(self.name)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def hand_engine() -> type[HandEngine]:
    return HandEngine


@pytest.fixture
def cell() -> Callable[..., SuiteCell]:
    def made(name: str, needs: Sequence[str] = (), words: Sequence[str] = WORDS) -> SuiteCell:
        return SuiteCell(name, "run", tuple(words), tuple(needs))

    return made


@pytest.fixture
def task(tmp_path: Path, cell: Callable[..., SuiteCell], monkeypatch: pytest.MonkeyPatch) -> WorkerTask:
    """The task of one cell, in a folder that is shared."""
    monkeypatch.chdir(tmp_path)
    return tasks_of([cell("one")], tmp_path / "made")["one"]
