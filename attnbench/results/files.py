"""Keep a second process out of a folder that one is writing."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from attnbench.kernels.errors import BadInput


@contextlib.contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder while it is written; the system frees it when this process ends, however it does.

    Nothing is left in the folder. On a file system that has no locks, nothing is held.

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
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(f"another process is {doing} {str(folder)!r}; wait for it to end") from error
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


def write_whole(content: bytes, path: Path) -> Path:
    """Write ``content`` to ``path`` so that the file is at every moment the old one or the new one, whole.

    Raises:
        BadInput: if the place cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise BadInput(
            f"cannot write {str(path)!r}: {error.strerror or error}; name another place with --out"
        ) from error
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at every moment either the old or the new one is there whole.

    Raises:
        BadInput: if the place cannot be written, or is full.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(fresh, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise BadInput(f"cannot write {str(path)!r}: {error.strerror}") from error
