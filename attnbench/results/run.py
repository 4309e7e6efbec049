"""One run on disk: where it goes, who is told of its progress, and what of it still counts."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from attnbench.kernels.errors import BadInput
from attnbench.results.journal import JOURNAL, Journal, JournalRecord, held_words
from attnbench.results.records.cells import Environment, Row, RunHeader, Sample

DEFAULT_ROOT = Path("results")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a new run goes.

    Attributes:
        run_id: start of the run, UTC, and four random digits.
        folder: of the run.
        usual: whether it is the default folder, to which results/latest then points.
    """

    run_id: str
    folder: Path
    usual: bool


def choose_place(out: Path | None, suffix: str = "") -> Place:
    """Return where a new run goes: to ``out``, or to results/runs/<run id><suffix>. Nothing is written.

    Raises:
        BadInput: if nothing can be written there, or a run is there already.
    """
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    folder = out if out is not None else DEFAULT_ROOT / "runs" / f"{run_id}{suffix}"
    check_writable(folder)
    return Place(run_id, folder, out is None)


def begin(
    place: Place,
    environment: Environment,
    request: Mapping[str, Any],
    contents: Mapping[str, str] | None = None,
    *,
    in_turns: str = "",
    unknown_methods: Sequence[str] = (),
) -> Journal:
    """Begin a run: open its journal and write the first line.

    Args:
        place: where it goes.
        environment: of this machine.
        request: what ``--resume`` repeats.
        contents: of the files that the run reads, by ``conditions.contents_of``.
        in_turns: what it shares with the runs that it takes turns with, call by call.
        unknown_methods: that were asked for, and are left out.

    Raises:
        BadInput: if the folder cannot be written, or holds a run by now.
    """
    header = RunHeader(
        run_id=place.run_id,
        environment=environment,
        request=dict(request),
        contents=dict(contents or {}),
        in_turns=in_turns,
        unknown_methods=list(unknown_methods),
    )
    return Journal.create(place.folder, header)


def announce(place: Place, progress: Progress) -> None:
    """Let results/latest point to a run in the default folder, and tell where the run is."""
    if place.usual:
        try:
            point_latest(DEFAULT_ROOT, place.folder)
        except OSError as error:
            progress.note(f"{str(DEFAULT_ROOT / 'latest')!r} does not point to this run: {error.strerror}")
    progress.started(str(place.folder))


def reopen(folder: Path, command: str = "run") -> tuple[Journal, RunHeader, list[JournalRecord]]:
    """Open the journal of a run to continue it; also return its first line and all of its records.

    Whether the run may go on is for ``conditions.require_same`` to say.

    Raises:
        BadInput: as ``Journal.resume``.
    """
    journal, records = Journal.resume(folder, command)
    return journal, next(record for record in records if isinstance(record, RunHeader)), records


def check_writable(folder: Path) -> None:
    """Check that a run can be written to ``folder``, before anything is computed and without writing.

    Raises:
        BadInput: if not.
    """
    if os.path.exists(folder / JOURNAL):  # False also for names that the system refuses
        raise BadInput(held_words(folder))
    for place in (folder, *folder.parents):
        if os.path.exists(place):
            if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
                raise BadInput(f"cannot write results to {str(folder)!r}: {str(place)!r} is not a writable folder")
            return


def require_empty(folder: Path, otherwise: str = "") -> None:
    """Check that a folder, if it exists, holds nothing: what it held would be taken for results of this run.

    Args:
        folder: where several runs will be written.
        otherwise: what else the user may do, for the message.

    Raises:
        BadInput: if it holds something.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise BadInput(f"{str(folder)!r} is not empty; choose another --out{otherwise}")


def point_latest(root: Path, folder: Path) -> None:
    """Let results/latest point to the newest run; two runs at once leave one of the two, whole."""
    fresh = root / f".latest-{os.getpid()}"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(folder, root))
    os.replace(fresh, root / "latest")


def usable_samples(records: Iterable[JournalRecord]) -> list[Sample]:
    """Return the samples that may still make a latency: those before a row that will be measured anew may not.

    Nor may those that were taken beside such a row in the process of its cell, the dense baseline's.
    """
    samples: list[Sample] = []
    for record in records:
        if isinstance(record, Sample):
            samples.append(record)
        elif isinstance(record, Row) and not finished(record):
            samples = [each for each in samples if not _was_taken_for(record.cell_id, each)]
    return samples


def _was_taken_for(cell_id: str, sample: Sample) -> bool:
    return sample.group == cell_id or (sample.cell_id == cell_id and not sample.group)


class Progress(Protocol):
    """What the runner tells while it works."""

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        """Say what is worked on, how much of the stage is done, and how long it is likely to take."""

    def note(self, text: str) -> None:
        """Say something that the reader of the results should know."""

    def started(self, folder: str) -> None:
        """Say where the journal is, as soon as there is one."""


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


class PartProgress:
    """Passes on the progress of one part of a whole, as of a point of a sweep, and says which part that is."""

    def __init__(self, whole: Progress, name: str, place: str) -> None:
        self.whole, self.name, self.place = whole, name, place

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        """Pass on, after the part's place."""
        self.whole.step(f"{self.place}: {label}", done, total, seconds_left)

    def note(self, text: str) -> None:
        """Pass on, after the part's name."""
        self.whole.note(f"{self.name}: {text}")

    def started(self, folder: str) -> None:
        """Keep quiet: the whole has said where it is written."""


def finished(row: Row) -> bool:
    """Whether a resumed run leaves this row as it is; what failed for want of memory, time or luck is tried again."""
    return row.verdict in ("ok", "incorrect", "unsupported")


def exit_code(verdicts: Iterable[str]) -> int:
    """Return 1 if a cell is wrong, failed or hung, or if there is no latency at all; otherwise 0."""
    found = set(verdicts)
    return 1 if found & {"incorrect", "error", "crashed", "timeout"} or "ok" not in found else 0
