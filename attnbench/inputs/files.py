"""Files that were found in a folder, or that somebody named: opened only if they are files."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterable, Iterator
from gzip import GzipFile
from pathlib import Path
from typing import IO

MOST_BYTES = 2**28
"""Bytes of a journal, log or configuration that are read, unpacked: 15 times all committed journals."""
_SPECIAL: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def special_kind(mode: int) -> str:
    """Return what is at a path that is no file, such as "a named pipe"; empty for a file.

    Args:
        mode: ``st_mode`` of the path.
    """
    return next((kind for is_kind, kind in _SPECIAL if is_kind(mode)), "")


def open_file(path: Path) -> IO[bytes]:
    """Open a file for reading that was found in a folder, where its name alone does not say that it is a file.

    Reading a named pipe waits for a writer, and a device may never end, so neither is opened.

    Raises:
        OSError: if it cannot be opened; ``strerror`` says what it is, if it is no file.
    """
    if kind := special_kind(path.stat().st_mode):
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
    return path.open("rb")


def read_file(path: Path) -> bytes:
    """Return what a file holds that was found in a folder.

    Raises:
        OSError: as ``open_file``, or if it holds more than MOST_BYTES.
    """
    with open_file(path) as stream:
        return read_all(stream)


def read_named(path: Path) -> bytes:
    """Return what a file holds that somebody named: also what comes through a pipe, as from a shell's <(command).

    Raises:
        OSError: if it cannot be opened, or holds more than MOST_BYTES.
    """
    with path.open("rb") as stream:
        return read_all(stream)


def read_all(stream: IO[bytes] | GzipFile) -> bytes:
    """Return the rest of a stream.

    Raises:
        OSError: if it holds more than MOST_BYTES.
    """
    content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it holds more than {MOST_BYTES // 2**20} MiB")
    return content


def visible(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield paths without those whose name begins with a dot: macOS puts ``._NAME`` beside files on foreign disks."""
    return (path for path in paths if not path.name.startswith("."))


def inside(folder: Path, name: str) -> Path | None:
    """Return the path of a file that a record names from its journal's folder.

    None if the name is empty, or leads out of the folder, also through links.
    """
    try:
        root, place = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that the system refuses
        return None
    return folder / name if root in place.parents else None
