"""Files that are whole at every moment, and folders that one process writes at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from gzip import GzipFile
from pathlib import Path
from typing import IO

from attnbench.kernels.errors import BadInput

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


def hold(handle: int, busy: str) -> None:
    """Lock an open file or folder against other processes; the system frees it when all that have it open are gone.

    On a file system that has no locks, nothing is held.

    Raises:
        BadInput: saying ``busy``, if another process holds it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BadInput(busy) from error
    except OSError:
        return


@contextlib.contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder while it is written. Nothing is left in the folder.

    Args:
        folder: an existing one.
        doing: what the other process does there, as "training in".

    Raises:
        BadInput: if another process holds it, or it cannot be opened.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BadInput(f"cannot write {str(folder)!r}: {error.strerror}") from error
    try:
        hold(handle, f"another process is {doing} {str(folder)!r}; wait for it to end")
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write. When it is on disk, it takes the place of ``path``; after an error it is gone.

    Raises:
        OSError: if the file cannot be flushed or moved.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_whole(content: bytes, path: Path, advice: str = "name another place with --out") -> Path:
    """Write ``content`` so that at every moment the file is the old one or the new one, whole. Return ``path``.

    Folders that are missing are made.

    Args:
        advice: what to do if that fails; empty for nothing.

    Raises:
        BadInput: if the place cannot be written, or is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise BadInput(f"cannot write {str(path)!r}: {error.strerror or error}{advice and f'; {advice}'}") from error
    return path
