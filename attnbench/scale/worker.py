"""A worker: measures one cell of a suite in a process of its own, and says how that ended, on any engine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from pydantic import ValidationError

from attnbench.bench.apart.process import End, how_it_ended
from attnbench.bench.suite_calls import words_of
from attnbench.kernels.errors import AttnbenchError, BadInput
from attnbench.machine.printed import last_words
from attnbench.machine.signals import end_with_parent
from attnbench.results.files import hold
from attnbench.results.journal import JOURNAL
from attnbench.scale.task import THREADS, WORKERS, Ended, WorkerTask, keep, version_here

PROGRAM = (
    "import sys; from attnbench.scale.worker import prepare; prepare(sys.argv.pop(1)); "
    "from attnbench.cli import main; main()"
)
"""Of the process that calls the cell's command: its arguments are the task, and what is typed after ``attnbench``."""

INTERRUPTS = (129, 130, 143)
_TAIL = 2**12


def serve(text: str) -> str:
    """Measure the cell of a task, and return how that ended: JSON both ways, so that any engine can carry it.

    It raises nothing: an engine need only bring the text back.
    """
    start = time.monotonic()
    try:
        task = WorkerTask.model_validate_json(text)
    except ValidationError:
        why = f"this worker has attnbench {version_here()}, and cannot read the task of another version"
        return Ended(exit_code=2, reason=why, host=socket.gethostname()).model_dump_json()
    try:
        if why := _unshared(task):
            return Ended(exit_code=2, reason=why, host=socket.gethostname(), unshared=True).model_dump_json()
        if task.version != version_here():
            raise BadInput(f"this worker has attnbench {version_here()}, and the suite is run by {task.version}")
        if not os.path.isdir(task.cwd):
            raise BadInput(
                f"worker {socket.gethostname()!r} has no folder {task.cwd!r}, to which paths of the suite are "
                "relative; call attnbench in a folder that all workers share"
            )
        ended = _measured(task)
    except AttnbenchError as error:
        ended = Ended(exit_code=2, reason=str(error))
    except Exception as error:
        ended = Ended(exit_code=1, verdict="error", reason=f"{type(error).__name__}: {last_words(str(error))}")
    seconds = round(time.monotonic() - start, 1)
    ended = ended.model_copy(update={"host": socket.gethostname(), "seconds": seconds})
    try:
        keep(task, ended)
    except BadInput as error:
        ended = ended.model_copy(update={"exit_code": 2, "reason": ended.reason or str(error)})
    return ended.model_dump_json()


def _unshared(task: WorkerTask) -> str:
    """Say why this machine does not see the suite's folder; "" if it does."""
    try:
        found = Path(task.folder, WORKERS, "token").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        found = ""
    if found == task.token:
        return ""
    return (
        f"worker {socket.gethostname()!r} does not share the folder {task.folder!r}: its token file is "
        f"{'another one' if found else 'not there'}; choose an --out on a disk that all workers share"
    )


def _measured(task: WorkerTask) -> Ended:
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as log:
        hold(log.fileno(), f"another worker measures {task.name!r} already; wait for it to end")
        words = words_of(task.command, task.words, task.place)
        if words is None:
            return Ended(exit_code=0, reason="measured before")
        begin = log.tell()
        command = [sys.executable, "-c", PROGRAM, task.model_dump_json(), *words]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=task.cwd,
            env=_surroundings(task),
        )  # fmt: skip
        code = process.wait()
        said = said_last(task.log, begin)
        if code in (0, 2, *INTERRUPTS):
            return Ended(exit_code=code, reason="" if code == 0 else said)
        end = End("crashed", f"its worker {how_it_ended(code)}") if code < 0 else End("error", "its worker failed")
        end = End(end.verdict, f"{end.reason}{f'; its last words: {said}' if said else ''}")
        lost = give_up_below(task.place, end)
    if code == 1 and not lost:  # rows that are wrong or failed say why themselves
        return Ended(exit_code=1)
    return Ended(exit_code=1, verdict=end.verdict, reason=end.reason)


def _surroundings(task: WorkerTask) -> dict[str, str]:
    """Return the environment of the process that measures: as many threads as where the suite is driven.

    Ray sets the variable to 1 for a task that asks for a GPU alone, and rows of other threads are other rows.
    """
    found = {name: value for name, value in os.environ.items() if name != THREADS} | {"PYTHONUNBUFFERED": "1"}
    return found if task.omp_num_threads is None else found | {THREADS: task.omp_num_threads}


def give_up_below(place: Path, end: End) -> int:
    """Write the missing rows of the runs in a cell's folder, and return how many; none if there is no such run."""
    from attnbench.bench.apart.given_up import give_up

    rows = 0
    for journal in sorted(place.rglob(JOURNAL)):
        try:
            rows += give_up(journal.parent, end)
        except AttnbenchError:  # not of run: what it lacks is measured by --resume
            continue
    return rows


def wait_until_free(log: Path, seconds: float = 10.0) -> None:
    """Wait until no process of a worker that died has its log open, at most so long: the last one ends with it."""
    limit = time.monotonic() + seconds
    while log.exists():
        with log.open("rb") as stream:
            try:
                hold(stream.fileno(), "")
                return
            except BadInput:
                if time.monotonic() > limit:
                    return
        time.sleep(0.05)


def said_last(log: Path, begin: int = 0) -> str:
    """Return what a worker printed last, without the name of the program.

    Args:
        log: of the worker.
        begin: bytes that earlier workers printed.
    """
    try:
        with log.open("rb") as stream:
            stream.seek(max(begin, log.stat().st_size - _TAIL))
            return last_words(stream.read().decode(errors="replace")).removeprefix("attnbench: ")
    except OSError:
        return ""


def prepare(text: str) -> None:
    """Begin the process that calls a cell's command: it ends with its worker, and refuses a machine of another kind."""
    end_with_parent(os.getppid())
    from attnbench.machine.device import DeviceKind, resolve_device
    from attnbench.scale.fleet import machine_here, require_alike

    task = WorkerTask.model_validate_json(text)
    try:
        on_cpu = any(pair == ("--device", "cpu") for pair in zip(task.words, task.words[1:], strict=False))
        kind: DeviceKind = "cuda" if not on_cpu and resolve_device(None).type == "cuda" else "cpu"
        require_alike(Path(task.folder), kind, machine_here(kind))
    except AttnbenchError as error:
        print(f"attnbench: {error}", file=sys.stderr)
        sys.exit(2)


def main() -> None:
    """Serve the task on the command line, and print how it ended: the worker of the engine ``local``."""
    end_with_parent(int(sys.argv[2]))
    print(serve(sys.argv[1]), flush=True)


if __name__ == "__main__":
    main()
