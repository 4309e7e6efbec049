"""Run the same command with two versions of a project, each time in processes of their own, and in turns."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from attnbench.bench.gate.conductor import Conductor
from attnbench.bench.gate.project import CannotRun, Version
from attnbench.bench.in_turns import ADDRESS
from attnbench.machine.printed import last_words
from attnbench.methods.registry import OF_ONE
from attnbench.results.run import Progress

_PATIENCE = 20
"""Seconds that a process may take to end after it was asked to."""


def order_of(base: Version, head: Version, pairs: int) -> list[Version]:
    """Return who runs when: base, head, head, base, and so on, so that a drift affects both alike."""
    return [each for pair in range(pairs) for each in ((base, head) if pair % 2 == 0 else (head, base))]


def take_turns(
    base: Version,
    head: Version,
    words: Sequence[str],
    out: Path,
    most: int,
    progress: Progress,
    *,
    by_call: bool = False,
    enough: Callable[[int], bool] = lambda pairs: False,
) -> None:
    """Measure both versions in turns.

    Args:
        base, head: the versions.
        words: what to run, as ``["run", "--suite", "FILE"]``.
        out: an existing folder. Each run gets base/NUMBER or head/NUMBER in it, from 01, and a log beside that.
        most: how often each version runs at most.
        progress: told whose turn it is.
        by_call: whether the two runs of a pair are alive at the same time, and take turns call by call; otherwise one
            follows the other. A version from before that could be done is run the other way.
        enough: told after each pair how many there are; says whether they are enough.

    Raises:
        CannotRun: for a version whose run ends without rows.
    """
    by_call = by_call and takes_turns(base) and takes_turns(head)
    of_one = methods_of_one(base, head)
    for number in range(1, most + 1):
        pair = order_of(base, head, number)[-2:]
        places = {version.name: out.resolve() / version.name / f"{number:02}" for version in pair}
        for place in places.values():
            place.parent.mkdir(exist_ok=True)
        for group in [pair] if by_call else [[version] for version in pair]:
            names = " and ".join(version.name for version in group)
            done = 2 * number - 2 + (0 if group[0] is pair[0] else 1)
            progress.step(f"{names}, run {number} of {'at most ' * (most > 1)}{most}", done, 2 * most, None)
            _run(group, words, places, of_one)
        if enough(number):
            return


def takes_turns(version: Version) -> bool:
    """Whether runs of a version can take turns call by call: its own attnbench can, or it has none of its own."""
    own = version.folder / "attnbench"
    return not own.is_dir() or (own / "bench" / "in_turns.py").is_file()


_NAMES = "import json; from attnbench.methods.registry import method_names; print(json.dumps(method_names()))"


def methods_of_one(base: Version, head: Version) -> list[str]:
    """Return the methods that only one of two versions has; none if a version does not say which it has."""
    found = []
    for version in (base, head):
        done = subprocess.run(
            [sys.executable, "-P", "-c", _NAMES], env=os.environ | _environ(version), capture_output=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            found.append({str(name) for name in json.loads(done.stdout)})
        except (ValueError, TypeError):  # it is of before they were asked for so, or broken: its run will say
            return []
    return sorted(found[0] ^ found[1])


def _environ(version: Version) -> dict[str, str]:
    """Return what lets Python find the code of a version."""
    path = os.pathsep.join(filter(None, [str(version.folder), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "ATTNBENCH_COMMIT": version.commit}


def _run(versions: Sequence[Version], words: Sequence[str], places: Mapping[str, Path], of_one: Sequence[str]) -> None:
    """Run each version, at the same time and in turns if there are two. ``of_one`` names what one of them may lack.

    Raises:
        CannotRun: for one whose run ends without rows.
    """
    commands = {}
    for version in versions:
        # -P: the folder in which this runs holds the project as it stands, which is not what both run.
        command = [sys.executable, "-P", "-m", "attnbench", *words, "--out", str(places[version.name])]
        environ = _environ(version) | {OF_ONE: "\n".join(of_one)}
        commands[version.name] = Command(command, environ, places[version.name].with_suffix(".log"))
    codes = run_in_turns(commands)
    for version in versions:
        ended, place, log = codes[version.name], places[version.name], commands[version.name].log
        # 1 says that a cell has no latency, which the comparison judges.
        if ended not in (0, 1) or not any(place.rglob("*.jsonl")):
            said = last_words(log.read_text(encoding="utf-8", errors="replace")) or "no message"
            raise CannotRun(
                version.name, f"its run ended with exit code {ended}: {said}; all it printed is in {str(log)!r}"
            )


class Command:
    """A command, what it finds in its environment besides what is there, and the file that gets all it prints."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.words, self.environ, self.log = list(words), dict(environ), log


def run_in_turns(commands: Mapping[str, Command]) -> dict[str, int]:
    """Run commands that measure, and return their exit codes. Two or more are alive together, and take turns by call.

    Args:
        commands: by short names.
    """
    token = secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attnbench-turns-")))
        conductor = stack.enter_context(Conductor(scratch, tuple(commands), token)) if len(commands) > 1 else None
        processes = {}
        for name, each in commands.items():
            turns = {} if conductor is None else {ADDRESS: str(conductor.address(name))}
            printed = stack.enter_context(each.log.open("wb"))
            processes[name] = process = subprocess.Popen(
                each.words, env=os.environ | each.environ | turns, stdin=subprocess.DEVNULL, stdout=printed,
                stderr=printed, start_new_session=True,
            )  # fmt: skip
            stack.enter_context(_ended(process))
        if conductor is not None:
            conductor.conduct(processes)
        return {name: process.wait() for name, process in processes.items()}


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
