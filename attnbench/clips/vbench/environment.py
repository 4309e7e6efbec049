"""VBench's environment: where it is, whether it is complete, and how to run a script in it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from attnbench.kernels.errors import BadInput

MARKER = "attnbench-vbench.json"
"""File that is written last into an environment. A folder without it is not an environment."""

FOLDER_VARIABLE = "ATTNBENCH_VBENCH_ENV"
"""Environment variable that names the folder of the environment."""

_SET_UP = "run attnbench vbench setup"
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class Environment:
    """A finished environment.

    Attributes:
        folder: the folder of the environment.
        lock: digest of the lock file that it was built from.
        python_version: such as 3.11.7.
        imports: for each dimension, the error of its import when the environment was built; None if it succeeded.
    """

    folder: Path
    lock: str
    python_version: str
    imports: Mapping[str, str | None]

    @property
    def python(self) -> Path:
        """The path of the interpreter."""
        return python_of(self.folder)


def python_of(folder: Path) -> Path:
    """Return the path of the interpreter of an environment."""
    return folder / "bin" / "python"


def lock_text() -> str:
    """Return the text of the lock file of this package: one pinned package on each line."""
    return resources.files("attnbench.clips.vbench").joinpath("lock.txt").read_text(encoding="utf-8")


def lock_digest() -> str:
    """Return 8 hex digits that identify the pins, without comments."""
    pins = sorted(line for line in lock_text().splitlines() if line and not line.startswith("#"))
    return hashlib.sha256("\n".join(pins).encode()).hexdigest()[:8]


def default_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the environment's folder: ``ATTNBENCH_VBENCH_ENV``, or one in the user's cache that is named after the
    lock."""
    if named := environ.get(FOLDER_VARIABLE):
        return Path(named)
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "attnbench" / f"vbench-{lock_digest()}"


def find(folder: Path) -> Environment:
    """Return the finished environment in ``folder``.

    Raises:
        BadInput: if there is none, the folder is something else, it belongs to another version of attnbench, or its
            Python is gone.
    """
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{str(folder)!r} is a file; give another folder with --env")
    if not folder.is_dir():
        raise BadInput(f"there is no VBench environment in {str(folder)!r}; {_SET_UP}")
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        found = Environment(folder, marker["lock"], marker["python"], marker["imports"])
    except FileNotFoundError:
        raise BadInput(
            f"{str(folder)!r} is not a VBench environment: it has no {MARKER}; give another folder with --env"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{MARKER} in {str(folder)!r} cannot be read; remove the folder and {_SET_UP}") from error
    if found.lock != lock_digest():
        raise BadInput(
            f"the VBench environment in {str(folder)!r} was built from lock {found.lock}, and this attnbench pins "
            f"{lock_digest()}; remove it and {_SET_UP}"
        )
    if not os.access(found.python, os.X_OK):
        raise BadInput(
            f"the VBench environment in {str(folder)!r} has lost its Python ({found.python.resolve()} cannot be run); "
            f"remove it and {_SET_UP}"
        )
    return found


def child_environ(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables for a process in the environment: the user's, except those that would add other packages."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return {**kept, "PYTHONNOUSERSITE": "1", "HF_HUB_OFFLINE": "1", **(extra or {})}


def ask_imports(python: Path, dimensions: list[str], scratch: Path, timeout: float = 600.0) -> dict[str, Any]:
    """Import dimensions in an environment, and return the worker's answer.

    Args:
        python: the interpreter of the environment.
        dimensions: VBench's names.
        scratch: an existing folder for temporary files.
        timeout: seconds.

    Raises:
        BadInput: if the interpreter does not start or does not answer in time.
    """
    answer, request = scratch / "answer.json", scratch / "request.json"
    asked = {"do": "check", "dimensions": dimensions, "answer": str(answer)}
    request.write_text(json.dumps(asked), encoding="utf-8")
    environ = child_environ({"VBENCH_CACHE_DIR": str(scratch / "cache"), "TORCH_HOME": str(scratch / "torch")})
    worker = Path(__file__).with_name("worker.py")
    try:
        done = subprocess.run(
            [str(python), "-P", str(worker), str(request)],
            env=environ, cwd=scratch, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
    except OSError as error:
        raise BadInput(f"the Python of the VBench environment, {str(python)!r}, does not start: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"the Python of the VBench environment, {str(python)!r}, took over {timeout:g} s") from error
    try:
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise BadInput(f"the Python of the VBench environment, {str(python)!r}, gave no answer but: {last}") from error
    return found
