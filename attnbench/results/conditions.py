"""What must stay the same while a run is made in several pieces, and the one check of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from attnbench.inputs.files import open_file
from attnbench.kernels.errors import BadInput
from attnbench.results.records.cells import Environment, RunHeader

ABSENT = "absent"
COMPLETE_SINCE = 2
"""Schema version from which the first line of a journal holds every condition: uncommitted changes and contents too."""

_CHUNK = 2**20
_SHOWN = 12


def content_digest(path: Path) -> str:
    """Return a SHA-256 of what a file holds, or of the names and contents of all files below a folder.

    Raises:
        BadInput: if something cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in _files_below(path) if path.is_dir() else [path]:
            if file != path:
                digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
            with open_file(file) as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, also through links, but for hidden ones and for what Python caches."""
    found: list[Path] = []
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [each for each in folders if not each.startswith(".") and each != "__pycache__"]
        names = [each for each in names if not each.startswith(".")]
        entered.add(os.path.realpath(place))
        folders[:] = [each for each in folders if os.path.realpath(os.path.join(place, each)) not in entered]
        found += [Path(place, name) for name in names if os.path.isfile(os.path.join(place, name))]
    return sorted(found)


def contents_of(files: Mapping[str, str | os.PathLike[str] | None]) -> dict[str, str]:
    """Return the digest of each file or folder that a run reads, by what it is to the run; None is left out.

    Raises:
        BadInput: if something cannot be read.
    """
    return {name: content_digest(Path(path)) for name, path in files.items() if path is not None}


def require_same(
    folder: Path,
    header: RunHeader,
    here: Environment,
    contents: Mapping[str, str],
    note: Callable[[str], None],
    threads: tuple[Iterable[int | None], int | None] | None = None,
) -> None:
    """Refuse to continue a run under other conditions than it began with.

    Args:
        folder: of the run.
        header: what the run says of how it began.
        here: this machine, as it is now.
        contents: of what the run reads, as ``contents_of`` gives them now.
        note: told what an older run does not say, and so cannot be compared.
        threads: the numbers of CPU threads that the run used so far, and the number now.

    Raises:
        BadInput: naming everything that changed.
    """
    began = header.environment
    if began.device != here.device:
        raise BadInput(
            f"{str(folder)!r} was measured on {began.device!r} and this is {here.device!r}: "
            "one run cannot hold both; start a new one"
        )
    complete = header.schema_version >= COMPLETE_SINCE
    before, now = _conditions(began, header.contents), _conditions(here, contents)
    if threads is not None and (used := set(threads[0])):
        before["threads"], now["threads"] = ", ".join(map(str, sorted(used, key=str))), str(threads[1])
    names = before.keys() | now.keys() if complete else before.keys() & now.keys()
    changed = sorted(name for name in names if before.get(name, ABSENT) != now.get(name, ABSENT))
    if changed:
        old, new = (", ".join(f"{name} {values.get(name, ABSENT)}" for name in changed) for values in (before, now))
        raise BadInput(
            f"{str(folder)!r} was measured with {old} and this is {new}: one run cannot hold both; start a new one"
        )
    if not complete:
        note("an older attnbench began this run: whether files that it reads were replaced since cannot be told")


def _conditions(environment: Environment, contents: Mapping[str, str]) -> dict[str, str]:
    """Return versions, the code, what affects time on this machine, and what the run reads, each by a short name."""
    fields = environment.model_dump(include={"python", "driver", "cores", "git_commit", "git_dirty"})
    found = {**environment.packages, **{name: str(value) for name, value in fields.items()}}
    if environment.threads is not None:
        found["threads"] = str(environment.threads)
    if environment.git_changes is not None:
        found["uncommitted changes"] = environment.git_changes[:_SHOWN]
    return found | {f"content of {name}": digest[:_SHOWN] for name, digest in contents.items()}
