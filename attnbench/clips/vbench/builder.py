"""Build VBench's environment: pinned, visible only when it is complete, and continued after an interruption."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attnbench.clips.vbench.dimensions import ALWAYS, DIMENSIONS
from attnbench.clips.vbench.environment import (
    MARKER,
    Environment,
    ask_imports,
    child_environ,
    find,
    lock_digest,
    lock_text,
    python_of,
)
from attnbench.kernels.errors import BadInput
from attnbench.results.files import hold, replacing

PYTHON = "3.11"
"""The version of Python that the lock was tested with. numpy 1.26 and decord support up to 3.12."""

NEEDED_GIB = 3.0
"""Free disk space that a build needs.

It takes 2.0 GiB with a CPU build of torch, and several more with one for CUDA.
"""


def build(folder: Path, python: str | None = None, say: Callable[[str], None] = lambda line: None) -> Environment:
    """Build the environment, or return the existing one.

    It is built in ``<folder>.partial``, gets its marker last and is then renamed, so ``folder`` is either complete or
    absent. A partial environment of the same lock is continued. Two builds of one folder cannot run at once.

    Args:
        folder: the folder of the environment.
        python: the Python to build it with; None for this one if it is 3.11, else ``python3.11`` on the path.
        say: called with a line at the start of each step.

    Raises:
        BadInput: if ``folder`` is something else, another build is running, no suitable Python is found, the disk is
            full, or a step of pip fails. The log of pip stays in the partial environment.
    """
    folder = folder.absolute()
    if folder.exists():
        return find(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder) as lock:
            if folder.exists():
                return find(folder)
            base = pick_python(python)
            _check_disk(folder.parent)
            partial = _partial(folder, base, say)
            _install(partial, lock, say)
            say("importing every dimension")
            _finish(partial)
            os.rename(partial, folder)  # only the scripts in bin/ contain the old path, and none of them is called
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_full(folder) from error
        raise BadInput(f"the VBench environment cannot be built in {str(folder)!r}: {error}") from error
    return find(folder)


def pick_python(python: str | None) -> str:
    """Return the interpreter to build with.

    Raises:
        BadInput: if it cannot be run or is not version 3.11; without ``python``, if there is none on the path.
    """
    if python is None:
        mine = f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON
        python = sys.executable if mine else shutil.which(f"python{PYTHON}")
        if python is None:
            raise BadInput(
                f"VBench's packages need Python {PYTHON}, and there is no python{PYTHON}; give one with --python"
            )
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, timeout=60, env=child_environ())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInput(f"python {python!r} cannot be run: {error}") from error
    version = done.stdout.strip()
    if version != PYTHON:
        raise BadInput(f"python {python!r} is version {version or 'unknown'}; VBench's packages need {PYTHON}")
    return python


@contextmanager
def _alone(folder: Path) -> Iterator[int]:
    """Hold a lock beside the folder and yield its file descriptor.

    The system releases the lock when every process that has the descriptor is gone. pip gets it too, because it may
    outlive this process.
    """
    path = folder.with_name(folder.name + ".lock")
    with path.open("a+") as file:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        hold(file.fileno(), f"process {owner} is building {str(folder)!r} right now; wait for it")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free / 2**30
    if free < NEEDED_GIB:
        raise BadInput(f"{free:.1f} GiB are free for {str(folder)!r}; VBench's environment wants {NEEDED_GIB:g} GiB")


def _partial(folder: Path, base: str, say: Callable[[str], None]) -> Path:
    """Return the folder in which the environment is built, with an interpreter in it."""
    partial = folder.with_name(folder.name + ".partial")
    pins = partial / "lock.txt"
    if pins.is_file() and pins.read_text(encoding="utf-8") == lock_text() and os.access(python_of(partial), os.X_OK):
        say("continuing an interrupted build")
        for package in partial.glob("lib/python*/site-packages/*.dist-info"):
            if not (package / "RECORD").exists():  # pip writes it last, and takes a package without it for installed
                shutil.rmtree(package)
        return partial
    if partial.exists():
        shutil.rmtree(partial)
    say(f"creating an environment with {base}")
    done = subprocess.run([base, "-m", "venv", str(partial)], capture_output=True, text=True, env=child_environ())
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split()) or f"exit code {done.returncode}"
        raise BadInput(f"{base!r} -m venv failed: {said[:300]}")
    pins.write_text(lock_text(), encoding="utf-8")
    return partial


def _install(partial: Path, lock: int, say: Callable[[str], None]) -> None:
    """Install torch with its dependencies, then the other pins without theirs, because those of VBench conflict."""
    pins = partial / "lock.txt"
    torch = next(line for line in lock_text().splitlines() if line.startswith("torch=="))
    say(f"installing {torch}")
    _pip(partial, lock, "--constraint", str(pins), torch)
    say(f"installing {sum('==' in line for line in lock_text().splitlines())} pinned packages")
    _pip(partial, lock, "--no-deps", "--requirement", str(pins))


def _pip(partial: Path, lock: int, *arguments: str) -> None:
    log = partial / "pip.log"
    command = [str(python_of(partial)), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", *arguments]
    with log.open("a", encoding="utf-8") as file:
        start = file.tell()
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=child_environ(), pass_fds=(lock,))
    if done.returncode == 0:
        return
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(start)
        said = file.read()
    if "No space left on device" in said:
        raise _disk_full(partial)
    errors = [line.strip() for line in said.splitlines() if line.startswith("ERROR")]
    why = errors[-1] if errors else f"exit code {done.returncode}"
    raise BadInput(f"pip failed ({why}); its log is {str(log)!r}, and setup continues from here when it is run again")


def _finish(partial: Path) -> None:
    """Import every dimension and write the marker."""
    with tempfile.TemporaryDirectory(prefix="attnbench-vbench-") as scratch:
        answer = ask_imports(python_of(partial), list(DIMENSIONS), Path(scratch))
    problem = answer["error"] or answer["imports"][ALWAYS]
    if problem:
        raise BadInput(f"the VBench environment in {str(partial)!r} was installed but does not work: {problem}")
    marker = {
        "lock": lock_digest(),
        "python": answer["versions"]["python"],
        "versions": answer["versions"],
        "imports": answer["imports"],
    }
    text = json.dumps(marker, indent=2)
    with replacing(partial / MARKER) as written:
        written.write_text(text + "\n", encoding="utf-8")


def _disk_full(folder: Path) -> BadInput:
    return BadInput(f"the disk of {str(folder.parent)!r} is full; VBench's environment wants {NEEDED_GIB:g} GiB")
