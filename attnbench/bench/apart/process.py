"""Start a process for a task, listen to its answers, and say how it ended if it did not come to its end."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnbench.bench.apart.task import Task, Unbelievable
from attnbench.bench.in_turns import in_turns
from attnbench.machine.printed import last_words
from attnbench.machine.processes import end_group, end_marked, end_of, marked
from attnbench.results.records.cells import Verdict

STARTING = 600.0
"""Seconds that a process may take until its imports are done: these do not count as the cell's."""

LEAVING = 5.0
"""Seconds that a process may take to end once its work is done."""

ENOUGH_CORES = 8
"""Cores from which on a process is started before its turn."""

LONGEST = 2**24
"""Bytes that one answer may have."""

_PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); early, handle = json.loads(sys.argv.pop()); "
    "from attnbench.bench.apart.worker import main; main(handle, early)"
)


@dataclass(frozen=True)
class End:
    """How a worker ended: without a verdict it did all of its work."""

    verdict: Verdict | None = None
    reason: str = ""


Hear = Callable[[str, Any], None]
"""Gets the kind of an answer and its value. It raises ``Unbelievable`` for one that cannot be."""


def work(task: Task, seconds: float, hear: Hear, ahead: Ahead | None = None) -> End:
    """Let a process of its own do a task.

    Args:
        task: what to do.
        seconds: that it may take, once the process has started.
        hear: gets the answers as they come. What else it raises ends the process, and passes.
        ahead: has started the process, if tasks follow each other.
    """
    killed = _kills_for_memory()
    with _at_work(task, _Spawned.new() if ahead is None else ahead.take()) as worker:
        try:
            stopped = _listen(worker, seconds, hear)
        except Unbelievable as error:
            return End("error", f"its process {error}")
        if stopped:
            return End(
                "timeout", f"it took longer than {seconds:g} s and was stopped{worker.last_words}; see --cell-timeout"
            )
        if worker.finished:
            return End()
        code = worker.process.wait()
    if code == -signal.SIGKILL and _kills_for_memory() > killed:
        return End("oom", "its process was killed by the system, which had no memory left")
    return End("crashed", f"its process {how_it_ended(code)}{worker.last_words}")


@dataclass
class _Worker:
    """A process and what it said; it is not on the clock while it waits for its turn (``paused``, in all ``away``)."""

    process: subprocess.Popen[bytes]
    answers: int
    output: int
    ready: bool = False
    waiting: bool = False
    paused: float | None = None
    away: float = 0.0
    finished: bool = False
    rest: bytearray = field(default_factory=bytearray)
    said: bytearray = field(default_factory=bytearray)

    @property
    def last_words(self) -> str:
        """What the process printed last, as the end of a sentence."""
        words = last_words(self.said.decode(errors="replace"))
        return f"; its last words: {words}" if words else ""


@dataclass(frozen=True)
class _Spawned:
    """A process that waits for its task, the pipe on which it answers, and what marks the processes that it starts."""

    process: subprocess.Popen[bytes]
    answers: int
    mark: str

    @classmethod
    def new(cls, *, early: bool = False) -> _Spawned:
        """Start a process, which leads a process group; ``early`` if there is time until it gets its task."""
        answers, given = os.pipe()
        mark = secrets.token_hex(16)
        command = [sys.executable, "-c", _PROGRAM, json.dumps([early, given]), json.dumps(sys.path)]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
                pass_fds=(given,), start_new_session=True, env=marked(mark),
            )  # fmt: skip
        except BaseException:
            os.close(answers)
            raise
        finally:
            os.close(given)
        return cls(process, answers, mark)

    def end(self) -> None:
        """Kill it with all that it started."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        end_group(self.process)
        end_marked(self.mark)
        os.close(self.answers)
        self.process.stdout.close()
        with contextlib.suppress(OSError):
            self.process.stdin.close()


class Ahead:
    """Starts the process of the next task while one is at work, so that what it imports is there when its turn comes.

    Each process still does one task. Until it has one, it computes nothing and leaves the GPU alone.

    Args:
        tasks: how many follow each other.
        device: of the calls.
    """

    def __init__(self, tasks: int, device: str) -> None:
        # On few cores the imports would take time from the cell that is measured.
        self._on = device == "cuda" and (os.cpu_count() or 1) >= ENOUGH_CORES and not in_turns().shared
        self._left = tasks
        self._next: _Spawned | None = None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        if self._next is not None:
            self._next.end()

    def take(self) -> _Spawned:
        """Return the process of the next task, and start the one after it."""
        mine, self._next = self._next, None
        if mine is not None and mine.process.poll() is not None:  # a new one says why, if that happens again
            mine.end()
            mine = None
        mine, self._left = mine or _Spawned.new(), self._left - 1
        try:
            self._next = _Spawned.new(early=True) if self._on and self._left > 0 else None
        except BaseException:
            mine.end()
            raise
        return mine


@contextlib.contextmanager
def _at_work(task: Task, spawned: _Spawned) -> Iterator[_Worker]:
    """Hand a task over to a process; at the end, and after an error, it is killed with all it started."""
    process = spawned.process
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # In a thread: what is written waits until the process reads, and it may hang before it does.
        line = (task.model_dump_json() + "\n").encode()
        threading.Thread(target=_hand_over, args=(process.stdin, line), daemon=True).start()
        yield _Worker(process, spawned.answers, process.stdout.fileno())
    finally:
        spawned.end()


def _hand_over(stream: Any, line: bytes) -> None:
    rest = memoryview(line)
    with contextlib.suppress(OSError, ValueError):  # the process is gone, which the listener finds out by itself
        while rest:
            rest = rest[stream.write(rest) :]


def _listen(worker: _Worker, seconds: float, hear: Hear) -> bool:
    """Hear a worker out; return whether it was stopped because its time was up."""
    limit = time.monotonic() + STARTING
    with selectors.DefaultSelector() as selector, end_of(worker.process) as ending:
        for handle in (worker.answers, worker.output, *ending):
            selector.register(handle, selectors.EVENT_READ)
        while not worker.finished:
            queued = worker.waiting and not worker.ready  # for a GPU that another run uses, however long that takes
            others = worker.paused is not None  # of the runs that take turns with this one are at work
            left = STARTING if queued or others else limit + worker.away - time.monotonic()
            if left <= 0:
                return True
            ready = {key.fd for key, _ in selector.select(left if ending else min(left, 0.5))}
            if worker.output in ready and not _overhear(worker):
                selector.unregister(worker.output)
            started = worker.ready
            open_ = _hear_out(worker, hear) if worker.answers in ready else True
            if worker.ready and not started:
                limit = time.monotonic() + seconds
            if not open_ or (not ready.isdisjoint(ending)) or (not ending and worker.process.poll() is not None):
                _drain(worker, hear)
                break
    if worker.finished:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(LEAVING)
    return False


def _drain(worker: _Worker, hear: Hear) -> None:
    """Read what a process left that has ended. Processes of its own may hold the pipes open: nothing is waited for."""
    readers: tuple[tuple[int, Callable[[], bool]], ...] = (
        (worker.answers, lambda: _hear_out(worker, hear)),
        (worker.output, lambda: _overhear(worker)),
    )
    for handle, read in readers:
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while selector.select(0) and read():
                pass


def _overhear(worker: _Worker) -> bool:
    """Keep the end of what a process prints; return whether more may come."""
    piece = os.read(worker.output, 2**16)
    worker.said += piece
    del worker.said[: -(2**12)]
    return bool(piece)


def _hear_out(worker: _Worker, hear: Hear) -> bool:
    """Pass on the whole answers that have come; return whether more may come."""
    piece = os.read(worker.answers, 2**16)
    worker.rest += piece
    *lines, rest = bytes(worker.rest).split(b"\n")
    worker.rest = bytearray(rest)
    if len(rest) > LONGEST:
        raise Unbelievable(f"gave an answer of more than {LONGEST:,} bytes")
    for line in lines:
        try:
            ((kind, value),) = json.loads(line).items()
        except (ValueError, AttributeError, RecursionError):
            raise Unbelievable(f"gave an answer that cannot be read: {line[:60]!r}") from None
        if kind == "ready":
            worker.ready = True
        elif kind == "waiting":
            worker.waiting = True
        elif kind == "pause" and in_turns().shared:
            worker.paused = time.monotonic()
        elif kind == "go on" and worker.paused is not None:
            worker.away, worker.paused = worker.away + time.monotonic() - worker.paused, None
        elif kind == "done":
            worker.finished = True
        else:
            hear(str(kind), value)
    return bool(piece)


def how_it_ended(code: int) -> str:
    """Return how a process with this exit code ended, in words: "was killed by SIGSEGV"."""
    if code >= 0:
        return f"ended with exit code {code} and left no result"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", perhaps because memory ran out" if code == -signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def _kills_for_memory() -> int:
    """How many processes the system has killed for want of memory; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
