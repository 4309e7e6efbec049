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

LONGEST = 2**24
"""Bytes that one answer may have."""

_PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); handle = int(sys.argv.pop()); "
    "from attnbench.bench.apart.worker import main; main(handle)"
)


@dataclass(frozen=True)
class End:
    """How a worker ended: without a verdict it did all of its work."""

    verdict: Verdict | None = None
    reason: str = ""


Hear = Callable[[str, Any], None]
"""Gets the kind of an answer and its value. It raises ``Unbelievable`` for one that cannot be."""


def work(task: Task, seconds: float, hear: Hear) -> End:
    """Let a process of its own do a task.

    Args:
        task: what to do.
        seconds: that it may take, once the process has started.
        hear: gets the answers as they come. What else it raises ends the process, and passes.
    """
    killed = _kills_for_memory()
    with _started(task) as worker:
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


@contextlib.contextmanager
def _started(task: Task) -> Iterator[_Worker]:
    """Start a worker, which leads a process group; at the end, and after an error, it is killed with all it started."""
    answers, given = os.pipe()
    mark = secrets.token_hex(16)
    command = [sys.executable, "-c", _PROGRAM, str(given), json.dumps(sys.path)]
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
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # In a thread: what is written waits until the process reads, and it may hang before it does.
        line = (task.model_dump_json() + "\n").encode()
        threading.Thread(target=_hand_over, args=(process.stdin, line), daemon=True).start()
        yield _Worker(process, answers, process.stdout.fileno())
    finally:
        end_group(process)
        end_marked(mark)
        os.close(answers)
        process.stdout.close()
        with contextlib.suppress(OSError):
            process.stdin.close()


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
