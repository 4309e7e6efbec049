"""What a Parquet file holds, read so that a damaged or hostile one cannot end this process.

The library that reads Parquet aborts the process on some damaged footers, with no exception. So a process of its own
reads each file first, and says that it came to an end. It serves all files of this process, one after the other.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import selectors
import subprocess
import sys
from typing import Any

SECONDS = 120.0
"""That reading may take in the other process."""

_PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from attnbench.results.parquet import serve; serve()"
)
_DONE = b"."
_readers: list[subprocess.Popen[bytes]] = []
"""The other process, once there is one."""


class NotWhole(Exception):
    """A file is no whole Parquet file: reading it ended the process, or took too long."""


class TooLarge(Exception):
    """A file says that it holds more than is read."""


def contents(data: bytes, most_values: int, most_bytes: int, *, decode: bool) -> tuple[list[dict[str, Any]], Any]:
    """Return the rows of a Parquet file, and its metadata by keys, both in bytes, or None.

    Args:
        data: the file.
        most_values, most_bytes: of all columns, unpacked.
        decode: without it there are no rows.

    Raises:
        NotWhole: if reading it ends a process, or takes too long.
        TooLarge: if it says that it holds more. It is not read then.
        OSError, ValueError, RecursionError, pyarrow.ArrowException: if it cannot be read.
    """
    asked = {"size": len(data), "most_values": most_values, "most_bytes": most_bytes, "decode": decode}
    if _readers and _readers[0].poll() is not None:  # somebody ended it
        _stop()
    reader = _readers[0] if _readers else _start()
    if not _comes_to_an_end(reader, json.dumps(asked).encode() + b"\n" + data):
        _stop()
        raise NotWhole
    return _contents(data, most_values, most_bytes, decode=decode)


def serve() -> None:
    """Read file after file from standard input. Exceptions are raised where the file is needed, not here."""
    while line := sys.stdin.buffer.readline():
        asked = json.loads(line)
        data = sys.stdin.buffer.read(asked.pop("size"))
        with contextlib.suppress(Exception):
            _contents(data, **asked)
        sys.stdout.buffer.write(_DONE)
        sys.stdout.buffer.flush()


def _start() -> subprocess.Popen[bytes]:
    reader = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True, bufsize=0,
    )  # fmt: skip
    _readers.append(reader)
    return reader


def _comes_to_an_end(reader: subprocess.Popen[bytes], question: bytes) -> bool:
    assert reader.stdin is not None
    assert reader.stdout is not None
    rest = memoryview(question)
    try:
        while rest:
            rest = rest[reader.stdin.write(rest) :]
    except OSError:  # it has ended
        return False
    with selectors.DefaultSelector() as selector:
        selector.register(reader.stdout, selectors.EVENT_READ)
        return bool(selector.select(SECONDS)) and reader.stdout.read(len(_DONE)) == _DONE


@atexit.register
def _stop() -> None:
    while _readers:
        reader = _readers.pop()
        reader.kill()
        for stream in (reader.stdin, reader.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        reader.wait()


def _contents(data: bytes, most_values: int, most_bytes: int, *, decode: bool) -> tuple[list[dict[str, Any]], Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    about = file.metadata.metadata
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    values = sum(group.column(place).num_values for group in groups for place in range(group.num_columns))
    if values > most_values or sum(group.total_byte_size for group in groups) > most_bytes:
        raise TooLarge
    return (file.read().to_pylist() if decode else []), about
