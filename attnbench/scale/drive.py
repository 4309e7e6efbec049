"""Drive a suite over the workers of an engine: start its cells, follow them, and keep how each ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from attnbench.bench.apart.process import End
from attnbench.bench.estimate import Estimate
from attnbench.bench.suite import SuiteCell
from attnbench.bench.suite_calls import begun
from attnbench.kernels.errors import BadInput
from attnbench.results.run import Progress
from attnbench.scale.task import THREADS, Ended, WorkerTask, ended_before, keep, token_of, version_here
from attnbench.scale.worker import give_up_below, said_last, wait_until_free


class Job(Protocol):
    """A worker that an engine has started."""

    def poll(self) -> Ended | None:
        """Return how it ended, None while it runs or waits.

        A worker that left nothing has a verdict, and why in its reason: that it died, or that Slurm killed it.
        """

    def stop(self) -> None:
        """End it."""


class Engine(Protocol):
    """What starts workers."""

    slots: int | None
    """Workers at once; None if the engine lets the others wait by itself."""

    width: int | None
    """How many workers run at once, for the time that is left; None where that is not known."""

    pause: float
    """Seconds between two looks at the workers."""

    here: bool
    """Whether all workers are on this machine."""

    def start(self, task: WorkerTask) -> Job:
        """Start a worker.

        Raises:
            BadInput: if the engine refuses what was asked of it, as a partition that there is none of.
        """

    def close(self) -> None:
        """Give back what the engine holds."""


def tasks_of(cells: Sequence[SuiteCell], folder: Path) -> dict[str, WorkerTask]:
    """Return the tasks of cells by name.

    Raises:
        BadInput: if the suite's folder cannot be written.
    """
    token = token_of(folder.absolute())
    return {
        cell.name: WorkerTask(
            name=cell.name, command=cell.command, words=list(cell.words), folder=str(folder.absolute()),
            cwd=os.getcwd(), token=token, version=version_here(), omp_num_threads=os.environ.get(THREADS),
        )
        for cell in cells
    }  # fmt: skip


def drive(
    engine: Engine,
    cells: Sequence[SuiteCell],
    folder: Path,
    progress: Progress,
    estimates: Mapping[str, Estimate] | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, Ended]:
    """Measure the cells of a suite that have no result yet, and return how each ended, by name.

    Each worker writes the journals of its cell in the suite's folder by itself, so that nothing is lost with this
    process.

    Args:
        engine: that starts the workers.
        cells: of the suite, in order. One begins when those that it needs have ended.
        folder: of the suite.
        progress: told which cells are done and which are measured.
        estimates: how long cells take, for the time that is left.
        sleep: between two looks at the workers.

    Raises:
        BadInput: if the folder is not shared with a worker, or the engine refuses a cell; the others are stopped then.
    """
    tasks = tasks_of(cells, folder)
    ended: dict[str, Ended] = {}
    for name, task in tasks.items():
        before = ended_before(task)
        if before is not None and before.exit_code == 0 and begun(task.place):
            ended[name] = before
    waiting = [cell for cell in cells if cell.name not in ended]
    running: dict[str, Job] = {}
    try:
        while waiting or running:
            for cell in [each for each in waiting if not tasks.keys() & set(each.needs) - ended.keys()]:
                if engine.slots is not None and len(running) >= engine.slots:
                    break
                running[cell.name] = engine.start(tasks[cell.name])
                waiting.remove(cell)
            _tell(progress, cells, ended, running, estimates or {}, engine.width)
            for name, job in list(running.items()):
                if (how := job.poll()) is not None:
                    del running[name]
                    ended[name] = _settled(engine, tasks[name], how)
                    _note(progress, tasks[name], ended[name])
            if running:
                sleep(engine.pause)
    except BaseException:
        for job in running.values():
            job.stop()
        raise
    return {cell.name: ended[cell.name] for cell in cells}


def _settled(engine: Engine, task: WorkerTask, how: Ended) -> Ended:
    """Return how a worker ended, with the last words of one that died; its cells get their verdict.

    Raises:
        BadInput: if it does not share the suite's folder.
    """
    if how.unshared:
        raise BadInput(how.reason)
    if not how.host and how.verdict is not None:  # the worker itself could not say it
        said = said_last(task.log)
        how = how.model_copy(update={"reason": f"{how.reason}{f'; its last words: {said}' if said else ''}"})
        if engine.here:
            wait_until_free(task.log)
            give_up_below(task.place, End(how.verdict, how.reason))
        keep(task, how)
    return how


def _note(progress: Progress, task: WorkerTask, how: Ended) -> None:
    if how.exit_code:
        progress.note(f"{task.name}: {how.reason or f'exit code {how.exit_code}; what it printed: {task.log}'}")


def _tell(
    progress: Progress,
    cells: Sequence[SuiteCell],
    ended: Mapping[str, Ended],
    running: Mapping[str, Job],
    estimates: Mapping[str, Estimate],
    width: int | None,
) -> None:
    left = [estimates[cell.name].usual_s for cell in cells if cell.name not in ended and cell.name in estimates]
    known = all(cell.name in estimates or cell.name in ended for cell in cells)
    seconds = sum(left) / max(width, 1) if known and running and width is not None else None
    names = list(running)
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    label = f"{len(ended)} of {len(cells)} cells done{f', measuring or queued: {shown}' if names else ''}"
    progress.step(label, len(ended), len(cells), seconds)
