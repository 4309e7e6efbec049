"""What a worker is given and what it hands back. Both are JSON, whatever carries them."""

from __future__ import annotations

import json
import secrets
from importlib import metadata
from pathlib import Path

from pydantic import Field, ValidationError

from attnbench.kernels.errors import BadInput
from attnbench.results.files import write_whole
from attnbench.results.records.cells import Record, Verdict

THREADS = "OMP_NUM_THREADS"
"""Variable that says how many threads torch takes on a CPU."""

WORKERS = ".workers"
"""Folder below a suite's, of what its workers leave beside the results. Readers of results skip hidden names."""


class WorkerTask(Record):
    """One cell of a suite, to be measured by a worker."""

    name: str = Field(description="of the cell: its folder below the suite's")
    command: str
    words: list[str] = Field(description="options of the command")
    folder: str = Field(description="of the suite, as an absolute path")
    cwd: str = Field(description="the folder that paths in the words are relative to")
    token: str = Field(description="what the token file in the suite's folder says")
    version: str = Field(description="of attnbench where the suite is driven")
    omp_num_threads: str | None = Field(default=None, description="OMP_NUM_THREADS where it is driven; null: not set")

    @property
    def place(self) -> Path:
        """The folder of the cell."""
        return Path(self.folder, self.name)

    @property
    def log(self) -> Path:
        """What the worker prints."""
        return Path(self.folder, WORKERS, f"{self.name}.log")

    @property
    def ended(self) -> Path:
        """How the last worker of the cell ended."""
        return Path(self.folder, WORKERS, f"{self.name}.json")


class Ended(Record):
    """How the worker of a cell ended.

    The exit code is that of the cell's command. A worker that died has 1 and a verdict, and its reason has its last
    words.
    """

    exit_code: int
    verdict: Verdict | None = None
    reason: str = ""
    host: str = ""
    seconds: float = 0.0
    unshared: bool = Field(default=False, description="whether the worker does not see the suite's folder")


def read_ended(text: str) -> Ended | None:
    """Return what a worker handed back; None if that is nothing that can be read."""
    try:
        return Ended.model_validate(json.loads(text))
    except (ValueError, ValidationError, RecursionError):
        return None


def ended_before(task: WorkerTask) -> Ended | None:
    """Return how an earlier worker of the cell ended, None if it is not known."""
    try:
        return read_ended(task.ended.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def keep(task: WorkerTask, ended: Ended) -> None:
    """Write how a worker ended, for ``--resume``.

    Raises:
        BadInput: if it cannot be written.
    """
    write_whole(ended.model_dump_json().encode(), task.ended, advice="")


def version_here() -> str:
    """Return the version of attnbench that is installed here."""
    return metadata.version("attnbench")


def token_of(folder: Path) -> str:
    """Return the token of a suite's folder, by which workers know that they see it. It is made if there is none.

    It stays the same when a suite goes on: workers of a driver that died may still come.

    Raises:
        BadInput: if it cannot be read or written.
    """
    place = folder / WORKERS / "token"
    try:
        if token := place.read_text(encoding="utf-8").strip():
            return token
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {str(place)!r}: {getattr(error, 'strerror', None) or error}") from error
    token = secrets.token_hex(16)
    write_whole(token.encode(), place)
    return token
