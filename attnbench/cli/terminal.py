"""What commands print: text from outside cannot steer the terminal, and a stream that fails stops nothing.

Commands print through ``say``, and tables through ``console``; ``print`` is for JSON, which is plain ASCII.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_IN_ASCII = {
    "–": "-", "—": "-", "−": "-", "×": "x", "·": ".", "…": "...", "→": "->", "←": "<-", "≥": ">=", "≤": "<=", "±": "+-",
    "√": "sqrt ", "µ": "u", "●": "o", "■": "#", "▲": "^", "◆": "*", "▼": "v", "✚": "+", "✖": "x", "⬢": "@",
}  # fmt: skip
_PLAIN = "attnbench-plain"


def say(text: object, *, error: bool = False) -> None:
    """Print text at once, on standard output or as an ``error`` on standard error."""
    from attnbench.report.terminal.shown import shown

    print(shown(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


@contextmanager
def sturdy_streams() -> Iterator[None]:
    """Let standard output and standard error take what they can while a command runs.

    A character that their encoding lacks is written in others. After a write that fails, as to a pipe whose reader is
    gone or to a full disk, the rest is dropped: what the command measures and its exit code stay the same. At the end
    standard error says why standard output is not complete, unless its reader went away.
    """
    before = sys.stdout, sys.stderr
    out, err = (_Sturdy.over(stream) for stream in before)
    sys.stdout, sys.stderr = (made or stream for made, stream in zip((out, err), before, strict=True))
    try:
        yield
    finally:
        for stream in (out, err):
            if stream is not None:
                stream.flush()
        if out is not None and out.failed not in (None, errno.EPIPE):
            say(f"attnbench: standard output is not complete: {os.strerror(out.failed or 0)}", error=True)
        sys.stdout, sys.stderr = before


class _Sturdy(io.TextIOWrapper):
    """A text stream that drops what it cannot write."""

    def __init__(self, raw: _SturdyFile, encoding: str, line_buffering: bool) -> None:
        super().__init__(io.BufferedWriter(raw), encoding, _PLAIN, line_buffering=line_buffering)
        self._raw = raw

    @classmethod
    def over(cls, stream: TextIO | None) -> _Sturdy | None:
        """Return a stream to where ``stream`` goes; None where that is no file, as in tests."""
        try:
            assert stream is not None
            number = stream.fileno()
            with suppress(OSError):
                stream.flush()
        except (AssertionError, AttributeError, OSError, ValueError):
            return None
        raw = _SturdyFile(number, "w", closefd=False)
        return cls(raw, stream.encoding or "ascii", bool(getattr(stream, "line_buffering", True)))

    @property
    def failed(self) -> int | None:
        """The number of the error that ended writing; None if there was none."""
        return self._raw.failed


class _SturdyFile(io.FileIO):
    failed: int | None = None

    def write(self, data: Any, /) -> int:  # bytes-like
        """Write what can be written, and say that all was."""
        if self.failed is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failed = error.errno or errno.EIO
        return memoryview(data).nbytes


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(each) or ascii(each)[1:-1] for each in lacking), error.end


codecs.register_error(_PLAIN, _plain)
