"""Files that are whole at every moment, and folders that one process writes at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from attnbench.kernels.errors import BadInput


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
        _flush(partial)
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _send(content: bytes, path: Path) -> None:
    """Write to a device or a pipe: all of it, or as much as a reader takes before it goes away.

    A pipe that nobody has opened for reading is an error, which is told at once.
    """
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(handle, True)
    with contextlib.suppress(BrokenPipeError), open(handle, "wb", buffering=0) as stream:
        left = memoryview(content)
        while left:
            left = left[stream.write(left) or 0 :]


def _flush(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())


def is_stream(path: Path) -> bool:
    """Whether a path is no place for a file of its own: a device, a pipe, or what /dev and /proc have links to."""
    place = os.path.abspath(path)
    return path.exists() and not path.is_dir() and (not path.is_file() or place.startswith(("/dev/", "/proc/")))


def write_whole(content: bytes, path: Path, advice: str = "name another place with --out") -> Path:
    """Write ``content`` so that at every moment the file is the old one or the new one, whole. Return ``path``.

    Folders that are missing are made.

    Args:
        advice: what to do if that fails; empty for nothing.

    Raises:
        BadInput: if the place cannot be written, or is full.
    """
    write_together({path: content}, advice)
    return path


def write_together(contents: Mapping[Path, bytes], advice: str) -> None:
    """Write files that belong together, each as ``write_whole`` does. None is replaced before all are on disk.

    What is no file, such as /dev/stdout, is written to as it is.

    They are replaced in reverse order: where others are made from the first, that is the one that comes last.

    Raises:
        BadInput: as ``write_whole``.
    """
    path = Path()
    try:
        with contextlib.ExitStack() as stack:
            for path, content in contents.items():
                if is_stream(path):
                    _send(content, path)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = stack.enter_context(replacing(path))
                partial.write_bytes(content)
                if len(contents) > 1:  # a single one is flushed before it is moved
                    _flush(partial)
    except OSError as error:
        raise BadInput(f"cannot write {str(path)!r}: {error.strerror or error}{advice and f'; {advice}'}") from error
