"""Notice a rank that hangs: it is alive, so its exchanges do not fail, and the others would wait for it for hours."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attnbench.machine.clock import CLOCK
from attnbench.machine.exits import leave
from attnbench.scale.ranks import HUNG, Crew

SILENCE = 45.0
"""Seconds after which a rank that is not heard of counts as hung. Compilers of kernels may keep all threads waiting."""

BEAT = 1.0
"""Seconds between two signs of life."""


@contextmanager
def watched(crew: Crew, limit: float | None = None, end: Callable[[str], None] | None = None) -> Iterator[None]:
    """Let a thread give signs of life to the other ranks of this host, and end this process if theirs cease.

    A process that is stopped, or hangs inside of a call that lets no thread run, gives none. One whose main thread
    waits or computes does, so there is a limit for that.

    Args:
        crew: the ranks, all of which call this.
        limit: seconds that this rank may take between two things that it tells the others; None for no limit.
        end: what ends this process, with a sentence; by default it is printed, and the exit code is ``HUNG``.
    """
    place = Path(crew.hear(tempfile.mkdtemp(prefix="attnbench-ranks-") if crew.leads else None))
    thread = _Watch(crew, place, limit, end or _end)
    try:
        thread.start()
        yield
    finally:
        thread.leave()
        if crew.leads:
            _remove(place)


class _Watch(threading.Thread):
    """Gives signs of life: a file of each rank, whose time changes, and which is empty once the rank has left."""

    def __init__(self, crew: Crew, place: Path, limit: float | None, end: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self.crew, self.place, self.limit, self.end = crew, place, limit, end
        self.own = place / str(crew.control.rank)
        self.done = threading.Event()

    def leave(self) -> None:
        """Let the others know that this rank needs no watching any more."""
        self.done.set()
        self.join()
        with suppress(OSError):  # rank 0 may have left before, and removed the folder
            self.own.write_text("")

    def run(self) -> None:
        seen = dict[int, tuple[int, float]]()
        before = CLOCK.seconds()
        while not self.done.wait(BEAT):
            now = CLOCK.seconds()
            if now - before > SILENCE / 2:  # this process was stopped itself, and perhaps all were
                seen.clear()
            before = now
            with suppress(OSError):
                self.own.write_text(f"{now}")
            if problem := self._problem(now, seen):
                _remove(self.place)
                self.end(problem)
                return

    def _problem(self, now: float, seen: dict[int, tuple[int, float]]) -> str:
        size = self.crew.control.size
        for other in range(size):
            stamp = self._stamp(other)
            if seen.get(other, (None, 0.0))[0] != stamp:
                seen[other] = stamp, now
            elif stamp >= 0 and now - seen[other][1] > SILENCE:
                return f"rank {other} of {size} has not been heard of for {SILENCE:g} s: it was stopped, or hangs"
        if self.limit is not None and now - self.crew.told > self.limit and not self.crew.waits:
            own = f"rank {self.crew.control.rank} of {size} has taken more than {self.limit:g} s for one piece of work"
            return f"{own}, as --cell-timeout allows its cells: it hangs, or a rank that it waits for does"
        return ""

    def _stamp(self, rank: int) -> int:
        """Return when a rank gave its last sign of life; 0 before the first, -1 once it has left."""
        try:
            found = (self.place / str(rank)).stat()
        except OSError:
            return 0 if self.place.exists() else -1
        return found.st_mtime_ns if found.st_size else -1


def _remove(place: Path) -> None:
    """Remove the folder, in which another rank may be making its file again."""
    for _ in range(3):
        shutil.rmtree(place, ignore_errors=True)
        if not place.exists():
            return


def _end(problem: str) -> None:
    """End this process: its main thread may wait where nothing reaches it."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"\nattnbench: {problem}, so there is no result of all ranks\n")
        sys.stderr.flush()
    leave(HUNG)
