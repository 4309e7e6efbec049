"""One run on disk: where it goes, who is told of its progress, and what of it still counts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from attnbench.kernels.errors import BadInput
from attnbench.results.journal import JOURNAL, JournalRecord
from attnbench.results.records.cells import Row, Sample

DEFAULT_ROOT = Path("results")


def check_writable(folder: Path) -> None:
    """Check that a run can be written to ``folder``, before anything is computed and without writing.

    Raises:
        BadInput: if not.
    """
    if os.path.exists(folder / JOURNAL):  # False also for names that the system refuses
        raise BadInput(f"{str(folder)!r} holds a run already; choose another --out, or finish it with --resume")
    for place in (folder, *folder.parents):
        if os.path.exists(place):
            if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
                raise BadInput(f"cannot write results to {str(folder)!r}: {str(place)!r} is not a writable folder")
            return


def point_latest(root: Path, folder: Path) -> None:
    """Let results/latest point to the newest run; two runs at once leave one of the two, whole."""
    fresh = root / f".latest-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(folder, root))
    os.replace(fresh, root / "latest")


def usable_samples(records: Iterable[JournalRecord]) -> list[Sample]:
    """Return the samples that may still make a latency: those before a row that will be measured anew may not."""
    samples: dict[str, list[Sample]] = {}
    for record in records:
        if isinstance(record, Sample):
            samples.setdefault(record.cell_id, []).append(record)
        elif isinstance(record, Row) and not finished(record):
            samples.pop(record.cell_id, None)
    return [sample for mine in samples.values() for sample in mine]


class Progress(Protocol):
    """What the runner tells while it works."""

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        """Say what is worked on, how much of the stage is done, and how long it is likely to take."""

    def note(self, text: str) -> None:
        """Say something that the reader of the results should know."""

    def started(self, folder: str) -> None:
        """Say where the journal is, as soon as there is one."""


def finished(row: Row) -> bool:
    """Whether a resumed run leaves this row as it is; what failed for want of memory, time or luck is tried again."""
    return row.verdict in ("ok", "incorrect", "unsupported")


class NoProgress:
    """Shows nothing: where several processes do the same, one of them tells."""

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def started(self, folder: str) -> None:
        """Say nothing."""

    def __enter__(self) -> NoProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
