"""The ffmpeg program: where it is, what it can do, and how raw frames go into it."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

_SECONDS = 600


def programs() -> Iterator[str]:
    """Yield the paths of the ffmpegs on this machine: the one of imageio-ffmpeg, then the one on the PATH."""
    with contextlib.suppress(ImportError, RuntimeError):  # RuntimeError: it is installed, but found no program
        yield importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    on_path = shutil.which("ffmpeg")
    if on_path is not None:
        yield on_path


def listed(program: str, option: str) -> list[str]:
    """Return the names in the output of ``-filters`` or ``-encoders``."""
    lines = _said([program, "-hide_banner", option]).splitlines()
    return [words[1] for line in lines if len(words := line.split()) > 1]


def version(program: str) -> str:
    """Return the program's version, or "of unknown version"."""
    first = _said([program, "-version"]).split()
    return first[2] if first[:2] == ["ffmpeg", "version"] and len(first) > 2 else "of unknown version"


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def feed(command: list[str], pieces: Iterable[bytes], folder: Path | None = None) -> str:
    """Run ffmpeg with ``pieces`` as its standard input; return what went wrong, or an empty string.

    Args:
        command: the command line.
        pieces: raw frames.
        folder: the working folder.
    """
    with tempfile.TemporaryFile() as said:  # a file: a pipe full of messages would block the writer
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, cwd=folder
            )
        except OSError as error:
            return str(error)
        assert process.stdin is not None
        watch = threading.Timer(_SECONDS, process.kill)
        watch.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended early: its exit code says why
                for piece in pieces:
                    process.stdin.write(piece)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            code = process.wait()
        finally:
            watch.cancel()
            process.kill()
            process.wait()
        if code == 0:
            return ""
        said.seek(0)
        lines = said.read().decode(errors="replace").split("\n")
        return f"exit code {code} {next((line.strip() for line in lines if line.strip()), '')}".strip()
