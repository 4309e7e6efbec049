"""Run the same command with two versions of a project, each time in a process of its own, and in turns."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from attnbench.bench.gate.project import CannotRun, Version
from attnbench.machine.printed import last_words
from attnbench.results.run import Progress

_PATIENCE = 20
"""Seconds that a process may take to end after it was asked to."""


def order_of(base: Version, head: Version, pairs: int) -> list[Version]:
    """Return who runs when: base, head, head, base, and so on, so that a drift affects both alike."""
    return [each for pair in range(pairs) for each in ((base, head) if pair % 2 == 0 else (head, base))]


def take_turns(base: Version, head: Version, words: Sequence[str], out: Path, pairs: int, progress: Progress) -> None:
    """Measure both versions in turns.

    Args:
        base, head: the versions.
        words: what to run, as ``["run", "--suite", "FILE"]``.
        out: an existing folder. Each run gets base/NUMBER or head/NUMBER in it, from 01, and a log beside that.
        pairs: how often each version runs.
        progress: told whose turn it is.

    Raises:
        CannotRun: for a version whose run ends without rows.
    """
    done = {"base": 0, "head": 0}
    order = order_of(base, head, pairs)
    for number, version in enumerate(order):
        done[version.name] += 1
        progress.step(f"{version.name}, run {done[version.name]} of {pairs}", number, len(order), None)
        folder = out.resolve() / version.name / f"{done[version.name]:02}"
        folder.parent.mkdir(exist_ok=True)
        _run(version, [*words, "--out", str(folder)], folder)


def _run(version: Version, words: list[str], folder: Path) -> None:
    log = folder.with_suffix(".log")
    with log.open("wb") as printed:
        # -P: the folder in which this runs holds the project as it stands, which is not what both run.
        ended = _call([sys.executable, "-P", "-m", "attnbench", *words], version, printed)
    # 1 says that a cell has no latency, which the comparison judges.
    if ended not in (0, 1) or not any(folder.rglob("*.jsonl")):
        said = last_words(log.read_text(encoding="utf-8", errors="replace")) or "no message"
        raise CannotRun(
            version.name, f"its run ended with exit code {ended}: {said}; all it printed is in {str(log)!r}"
        )


def _call(command: list[str], version: Version, printed: BinaryIO) -> int:
    """Run a command with the version's packages before all others; return its exit code."""
    path = os.pathsep.join(filter(None, [str(version.folder), os.environ.get("PYTHONPATH")]))
    environ = os.environ | {"PYTHONPATH": path, "ATTNBENCH_COMMIT": version.commit}
    process: subprocess.Popen[bytes] = subprocess.Popen(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, start_new_session=True
    )  # fmt: skip
    with _ended(process):
        return process.wait()


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave no process behind: one that still runs is asked to end, so that it ends its own, and then killed."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
