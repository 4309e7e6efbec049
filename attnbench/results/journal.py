"""The results journal: one fsynced JSON line a sample, finished cell and phase, and how tables are read back."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ValidationError

from attnbench.inputs.files import open_file, read_all, read_file
from attnbench.kernels.errors import BadInput
from attnbench.results.files import hold
from attnbench.results.records.analysis import AnalysisRow, PremiseRow
from attnbench.results.records.cells import SCHEMA_VERSION, Choices, PhaseRow, Row, RunHeader, Sample
from attnbench.results.records.clips import ClipRow, QualityRow
from attnbench.results.records.faults import first_fault
from attnbench.results.records.older import brought_up
from attnbench.results.records.steps import StepRecord

JOURNAL = "journal.jsonl"
TRAINING_LOG = "train.jsonl"
"""Of ``attnbench train``, beside the journals in a folder of runs: no results."""
NOT_RESUMED = ("step", "profile --end-to-end", "analyze")
"""Commands that measure all or nothing: what they began cannot be continued."""
_KINDS: dict[str, type[BaseModel]] = {
    "run": RunHeader, "sample": Sample, "row": Row, "phase": PhaseRow, "clip": ClipRow, "quality": QualityRow,
    "step": StepRecord, "choices": Choices, "analysis": AnalysisRow, "premise": PremiseRow,
}  # fmt: skip


class TornLine(UserWarning):
    """The last line of a journal was cut off, as by a crash while it was written; it is left out."""


class BroughtBack(UserWarning):
    """The folder of a run was deleted while the run was written, and was made again."""


class Journal:
    """An open journal, locked against a second writer. Every line is on disk before ``append`` returns.

    Attributes:
        folder: where it is.
        command: the command of attnbench that continues it.
        earlier: the records that it held when it was resumed; none for a new one.
    """

    def __init__(self, folder: Path, stream: IO[bytes], command: str = "run") -> None:
        self.folder, self.command = folder, command
        self.earlier: tuple[JournalRecord, ...] = ()
        self._stream = stream

    @classmethod
    def create(cls, folder: Path, header: RunHeader) -> Journal:
        """Start a journal in ``folder``, which is made if missing.

        Raises:
            BadInput: if the folder cannot be written, or holds a journal already.
        """
        try:
            fresh = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            stream = (folder / JOURNAL).open("x+b", buffering=0)
        except FileExistsError as error:
            raise BadInput(held_words(folder)) from error
        except OSError as error:
            raise BadInput(
                f"cannot write results to {str(folder)!r}: {error.strerror}; choose another --out"
            ) from error
        journal = cls(folder, stream, command_of(header))
        journal._lock()
        try:
            journal._write(header)
        except OSError as error:
            journal.close()
            with suppress(OSError):
                (folder / JOURNAL).unlink()
                if fresh:
                    folder.rmdir()
            raise BadInput(
                f"cannot write results to {str(folder)!r}: {error.strerror}; choose another --out"
            ) from error
        return journal

    @classmethod
    def resume(cls, folder: Path, command: str = "run") -> tuple[Journal, list[JournalRecord]]:
        """Open an existing journal to go on; a torn last line is cut away. Also returns what it holds.

        Args:
            folder: where it is.
            command: the command of attnbench that continues it.

        Raises:
            BadInput: if there is none, if it cannot be read or written, if another process is writing it, or if another
                command began it.
        """
        path = folder / JOURNAL
        if not os.path.isfile(path):  # False also for names that the system refuses
            raise BadInput(f"nothing to resume: {str(folder)!r} has no {JOURNAL}")
        try:
            stream = path.open("r+b", buffering=0)
        except OSError as error:
            raise BadInput(f"cannot write {str(path)!r}: {error.strerror}") from error
        journal = cls(folder, stream, command)
        journal._lock()
        try:
            records = read_journal(path)
            header = next((record for record in records if isinstance(record, RunHeader)), None)
            if header is None:
                raise BadInput(
                    f"nothing to resume: {str(path)!r} has no whole first line; delete it and start a new run"
                )
            if (began := command_of(header)) in NOT_RESUMED:
                raise BadInput(f"{str(folder)!r} holds attnbench {began}, which is not resumed: start a new run")
            if began != command:
                raise BadInput(
                    f"{str(folder)!r} was begun by attnbench {began}; "
                    f"continue with: attnbench {began} --resume {folder}"
                )
            *lines, rest = read_file(path).split(b"\n")
            if _is_torn(rest.decode(errors="replace")):
                stream.truncate(sum(len(line) + 1 for line in lines))
                rest = b""
            stream.seek(0, os.SEEK_END)
            if rest:  # the line is whole, only its end is missing
                stream.write(b"\n")
        except BaseException:
            journal.close()
            raise
        journal.earlier = tuple(records)
        return journal, records

    def _lock(self) -> None:
        try:
            hold(self._stream.fileno(), f"another process is writing {str(self.folder)!r}; wait for it to end")
        except BadInput:
            self._stream.close()
            raise

    def append(self, *records: JournalRecord) -> None:
        """Write records that belong together: all of them, or none.

        Warns:
            BroughtBack: if the folder was deleted meanwhile. It is made again, with all that the journal held.

        Raises:
            BadInput: if the disk refuses them, as when it is full. What was written before stays readable.
        """
        start = self._stream.tell()
        try:
            self._write(*records)
            if os.fstat(self._stream.fileno()).st_nlink == 0:
                self._bring_back()
        except OSError as error:
            self._undo(start)
            next_step = (
                "start a new run in another place with --out"
                if self.command in NOT_RESUMED
                else f"what was measured before is kept; continue with: attnbench {self.command} --resume {self.folder}"
            )
            raise BadInput(f"cannot write to {str(self.folder)!r}: {error.strerror}; {next_step}") from error

    def _write(self, *records: JournalRecord) -> None:
        self._write_bytes("".join(map(line_of, records)).encode())

    def _write_bytes(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:  # the stream is unbuffered, so that nothing is left to be written after a failure
            rest = rest[self._stream.write(rest) :]
        os.fsync(self._stream.fileno())

    def _bring_back(self) -> None:
        """Write the journal anew where it was: its file is open here, but has no name any more."""
        text = os.pread(self._stream.fileno(), os.fstat(self._stream.fileno()).st_size, 0)
        self.folder.mkdir(parents=True, exist_ok=True)
        stream = (self.folder / JOURNAL).open("x+b", buffering=0)
        gone, self._stream = self._stream, stream
        gone.close()
        self._lock()
        self._write_bytes(text)
        warnings.warn(
            f"{str(self.folder)!r} was deleted while it was written; its journal was written anew",
            BroughtBack,
            stacklevel=3,
        )

    def _undo(self, start: int) -> None:
        try:
            self._stream.truncate(start)
            self._stream.seek(start)
        except OSError:
            return  # the reader leaves a torn line out

    def close(self) -> None:
        """Close the file and give up the lock."""
        try:
            self._stream.close()
        except OSError:
            return  # the failed write was reported when it was made

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


JournalRecord = (
    RunHeader | Sample | Row | PhaseRow | ClipRow | QualityRow | StepRecord | Choices | AnalysisRow | PremiseRow
)


def line_of(record: JournalRecord) -> str:
    """Return the line of a record."""
    kind = next(kind for kind, model in _KINDS.items() if type(record) is model)
    return json.dumps({"kind": kind, **record.model_dump(mode="json", by_alias=True)}, allow_nan=False) + "\n"


def held_words(folder: Path) -> str:
    """Return what to say of a folder that a new run cannot be written to, because it holds a run or is a file."""
    if not os.path.isdir(folder):
        return f"{str(folder)!r} is a file; choose another --out"
    asked = request_of(folder)
    began = "" if asked is None else str(asked.get("command", "run"))
    again = f", or continue with: attnbench {began} --resume {folder}" if began and began not in NOT_RESUMED else ""
    return f"{str(folder)!r} holds a run already; choose another --out{again}"


def request_of(folder: Path) -> dict[str, Any] | None:
    """Return what the run in a folder set out to do, as its first line says; None if that cannot be read."""
    try:
        with open_file(folder / JOURNAL) as stream:
            asked = json.loads(stream.readline(2**20))["request"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return asked if isinstance(asked, dict) else None


def command_of(header: RunHeader) -> str:
    """Return the command of attnbench that began a run."""
    return str(header.request.get("command", "run"))


def read_journal(path: Path) -> list[JournalRecord]:
    """Return the records of a journal in order, those of older schemas brought up to date.

    Empty lines and a byte-order mark are skipped.

    Warns:
        TornLine: if the last line is cut off; it is left out.

    Raises:
        BadInput: if the file cannot be read, is not a journal, or is of a newer schema.
    """
    return brought_up(_records(path))


def _records(path: Path) -> Iterator[JournalRecord]:
    try:
        content = unpacked(path)
    except NOT_READ as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not a whole gzip file"
        raise BadInput(f"cannot read {str(path)!r} as a results journal: {why}") from error
    for number, line in enumerate(io.BytesIO(content), 1):
        text = line.decode(errors="replace").strip(_BLANK)  # what is torn need not be text
        if line.endswith(b"\n"):
            if text := text.strip(f"{_BLANK}\n"):
                yield _parse(path, number, text)
        elif _is_torn(text) and (number > 1 or text.startswith("{")):
            message = f"{path}: the last line (line {number}, {len(text)} characters) is torn and was left out"
            warnings.warn(message, TornLine, stacklevel=2)
        elif text:
            yield _parse(path, number, text)


_BLANK = " \t\r\N{ZERO WIDTH NO-BREAK SPACE}"  # the last is the byte-order mark that some editors put first
NOT_READ = (OSError, EOFError, zlib.error)
"""What ``unpacked`` raises of a file that is missing, may not be read, or is torn."""


def unpacked(path: Path) -> bytes:
    """Return what a file holds; of NAME.gz what was packed."""
    if path.suffix != ".gz":
        return read_file(path)
    with open_file(path) as packed, gzip.open(packed) as stream:
        return read_all(stream)


def _is_torn(rest: str) -> bool:
    """Whether what follows the last line break is a part of a line only: no part of a JSON object is JSON."""
    rest = rest.strip(_BLANK)
    try:
        json.loads(rest)
    except json.JSONDecodeError:
        return bool(rest)
    except (ValueError, RecursionError):  # whole, but no record
        return False
    return False


class _NoNumber(Exception):
    """A line holds a number that JSON does not have, or that no figure of a run can be."""


def _refuse_constant(name: str) -> None:
    raise _NoNumber(f"{name} is not a number of JSON; a value that is missing is null")


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise _NoNumber(f"a whole number of {len(digits)} digits; no figure of a run has more than {_MOST_DIGITS}")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _NoNumber(f"{digits[:20]} is too large for a number")
    return value


_MOST_DIGITS = 30
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_whole, parse_float=_finite)
_VERSIONED = ("run", "row")


def _parse(path: Path, number: int, line: str) -> JournalRecord:
    try:
        return validated(path, f"line {number}", _DECODER.decode(line))
    except BadInput:
        raise
    except _NoNumber as error:
        raise BadInput(f"{str(path)!r} line {number} is not a valid record: {error}") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise BadInput(
            f"{str(path)!r} line {number} is not a record of a results journal: {line[:_QUOTED]!r}"
        ) from error


def validated(path: Path, place: str, fields: dict[str, Any]) -> JournalRecord:
    """Return the record that ``fields`` with their ``kind`` are; ``kind`` is taken out.

    Args:
        path: the file that they were read from.
        place: where in it, as "line 3".

    Raises:
        BadInput: if they are not valid, or of a newer schema.
        KeyError: if there is no such kind.
    """
    if fields["kind"] in _VERSIONED:
        fields["schema_version"] = _version(path, place, fields.get("schema_version", 1))
    try:
        return _KINDS[fields.pop("kind")].model_validate(fields)  # type: ignore[return-value]  # _KINDS holds these
    except ValidationError as error:
        raise BadInput(f"{str(path)!r} {place} is not a valid record: {first_fault(error)}") from error


def _version(path: Path, place: str, given: object) -> int:
    """Return the schema version of a record, also of one that writes it as text. Without one it is the first."""
    version = given if isinstance(given, int) and not isinstance(given, bool) else None
    if isinstance(given, str) and given.isascii() and given.isdecimal() and len(given) < _MOST_DIGITS:
        version = int(given)
    if version is None or version < 1:
        raise BadInput(f"{str(path)!r} {place}: schema_version is {str(given)[:_QUOTED]!r}; it must be a number from 1")
    if version > SCHEMA_VERSION:
        raise BadInput(
            f"{str(path)!r} has schema version {version}; this attnbench reads up to {SCHEMA_VERSION}: upgrade it"
        )
    return version


_QUOTED = 60
