"""The process of a cell: reads a task from standard input, and answers in lines of JSON on a pipe of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from attnbench.bench.apart.task import Listed, Problem, Shown, Step, Task
from attnbench.bench.bench import Bench
from attnbench.bench.in_turns import in_turns
from attnbench.bench.jobs import make_agenda
from attnbench.bench.measure import measure
from attnbench.bench.trial import first_line
from attnbench.kernels.engines import load_engines
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.machine.lock import hold_gpu
from attnbench.machine.signals import end_with_parent
from attnbench.machine.state import State
from attnbench.methods.cards import card_of
from attnbench.methods.registry import get_method
from attnbench.results.journal import JournalRecord, line_of
from attnbench.results.records.cells import Choices


class Answers:
    """Writes answers to the pipe. It is a ``Progress`` too: what is told is passed on to the run."""

    def __init__(self, handle: int) -> None:
        os.set_inheritable(handle, False)  # a process that outlives this one must not keep the pipe open
        self._stream = os.fdopen(handle, "wb", buffering=0)
        self._lock = threading.Lock()

    def say(self, kind: str, value: object = None) -> None:
        """Write one answer."""
        with self._lock:
            self._write(json.dumps({kind: value}, allow_nan=False) + "\n")

    def records(self, *records: JournalRecord) -> None:
        """Hand in records of the journal."""
        with self._lock:
            self._write("".join('{"record": ' + line_of(record).rstrip("\n") + "}\n" for record in records))

    def _write(self, text: str) -> None:
        rest = memoryview(text.encode())
        while rest:
            rest = rest[self._stream.write(rest) :]

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        """Pass on what is worked on."""
        self.say("step", Step(label=label, done=done, total=total, seconds_left=seconds_left).model_dump())

    def note(self, text: str) -> None:
        """Pass on a remark."""
        self.say("note", text)

    def started(self, folder: str) -> None:
        """Say nothing: the run has said where it is."""

    def warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Stand in for ``warnings.showwarning``."""
        self.note(str(message))


def main(handle: int, early: bool) -> None:
    """Do one task, and end this process whatever threads are left.

    Args:
        handle: of the pipe for answers.
        early: whether there is time before the task comes, to import what its engines will need.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run decides when its workers end
    end_with_parent(os.getppid())
    answers = Answers(handle)
    if early:
        load_engines()
    task = Task.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_at_end_of_input, daemon=True).start()
    warnings.showwarning = answers.warning
    try:
        _work(task, answers)
    except BaseException as error:
        answers.say("problem", Problem(kind="error", text=first_line(error)).model_dump())
    answers.say("done")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _work(task: Task, answers: Answers) -> None:
    import torch

    def wait(why: str) -> None:
        answers.note(why)
        answers.say("waiting")

    def told(waits: bool) -> None:
        answers.say("pause" if waits else "go on")

    torch.set_num_threads(task.threads)
    measures = task.do in ("choose", "measure", "profile")
    lock = hold_gpu(task.request.device, wait) if measures else contextlib.nullcontext()
    with lock, in_turns().telling(told):
        answers.say("ready")
        try:
            _DO[task.do](task, answers)
        except (BadInput, Unsupported) as error:
            kind = "bad input" if isinstance(error, BadInput) else "unsupported"
            answers.say("problem", {"kind": kind, "text": str(error)})


def _show(task: Task, answers: Answers) -> None:
    """Show the card of a method."""
    card = card_of(get_method(task.request.methods[0].method))
    defaults = dict(card.settings)
    settings = {name: str(default) for name, default in defaults.items()}
    source = card.source
    shown = Shown(summary=str(card.summary), title=source.title, url=source.url, settings=settings)
    answers.say("card", shown.model_dump())


def _list(task: Task, answers: Answers) -> None:
    """Name the cells that a request comes to."""
    if problem := _load(task):
        answers.say("problem", Problem(kind="error", text=problem).model_dump())
        return
    agenda = make_agenda(task.request)
    asked = task.request.engine
    answers.say("cells", [listed(agenda, job, asked).model_dump(mode="json") for job in agenda.jobs])


def listed(agenda: Any, job: Any, engine: str) -> Listed:
    """Return a job of an agenda as a cell that is yet to be measured."""
    return Listed(
        method=job.method.name, settings=json.loads(job.given), layer=job.layer, label=job.label,
        cell=agenda.cell(job, engine),
    )  # fmt: skip


def _choose(task: Task, answers: Answers) -> None:
    """Find the dense baseline, and decide how many heads and rounds its cells get."""
    bench = Bench(make_agenda(task.request), answers)
    bench.apart = task.cells
    bench.leave_out({trial.cell.identity for trial in bench.trials})
    bench.prepare()
    heads = bench.choose_heads()
    share = heads / bench.heads
    for trial in bench.live():
        trial.seconds *= share
    baseline = None if bench.baseline is None else bench.baseline.cell.engine
    answers.records(Choices(heads=heads, rounds=bench.choose_rounds(), baseline=baseline))


def _measure(task: Task, answers: Answers) -> None:
    """Measure one cell beside the dense baseline."""
    assert task.choices is not None
    if problem := _load(task):
        answers.say("problem", Problem(kind="error", text=problem).model_dump())
        return
    agenda = make_agenda(task.request)
    bench = Bench(agenda, answers, heads=task.choices.heads, own=True)
    answers.say("cell", bench.trials[0].cell.model_dump(mode="json"))
    measure(bench, answers.records, task.run_id, answers, task.samples, choices=task.choices)


def _profile(task: Task, answers: Answers) -> None:
    """Profile one cell, which was measured before, on tensors like those that it was timed on."""
    from attnbench.bench.profile.cells import profile_rows

    asked, choices = task.profiling, task.choices
    assert asked is not None
    assert choices is not None
    if problem := _load(task):
        answers.say("problem", Problem(kind="error", text=problem).model_dump())
        return
    bench = Bench(make_agenda(task.request), answers, heads=choices.heads, own=True)
    bench.leave_out({trial.cell.identity for trial in bench.trials})
    bench.prepare(choices.baseline, search=False)  # of the baseline, the memory is shown beside the cell's
    bench.reopen(task.rows)
    pages = _Pages(Path(asked.folder), answers)
    profile_rows(bench, pages, task.rows, answers, repeats=asked.repeats, traces=asked.traces)


@dataclass
class _Pages:
    """Stands in for the journal of the run, to which phases are handed in."""

    folder: Path
    answers: Answers
    earlier: Sequence[JournalRecord] = ()
    command: str = ""

    def append(self, *records: JournalRecord) -> None:
        self.answers.records(*records)


def _load(task: Task) -> str:
    """Import the method of a task; return what is wrong with that, empty if nothing is."""
    before = State.now()
    try:
        for entry in task.request.methods:
            get_method(entry.method)
    except BadInput as error:
        return str(error)
    changed = before.restore(imported=True)
    return f"while it was imported it {changed}" if changed else ""


_DO: Mapping[str, Callable[[Task, Answers], None]] = {
    "show": _show, "list": _list, "choose": _choose, "measure": _measure, "profile": _profile,
}  # fmt: skip


def _end_at_end_of_input() -> None:
    """End this process when the other end of its standard input is closed, as by the end of the parent."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)
