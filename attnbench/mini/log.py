"""The log of a training run: one JSON object on each line. It is cut back to the checkpoint when the run is resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from attnbench.kernels.errors import BadInput
from attnbench.results.files import write_whole
from attnbench.results.journal import TRAINING_LOG
from attnbench.results.training import read_log


def cut_log(folder: Path, step: int) -> None:
    """Remove everything that was logged after ``step``.

    Raises:
        BadInput: if the log cannot be read or written.
    """
    kept = [json.dumps(line) + "\n" for line in read_log(folder) if line["step"] <= step]
    write_whole("".join(kept).encode(), folder / TRAINING_LOG, "")


class Log:
    """Appends to the log of a run. Every line is written at once.

    Raises:
        BadInput: if the file cannot be opened or written, for example because the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / TRAINING_LOG
        try:
            self._file = open(self._path, "a+", buffering=1)  # noqa: SIM115  # closed by close()
        except OSError as error:
            raise BadInput(f"cannot write {str(self._path)!r}: {error.strerror}") from error

    def add(self, **values: object) -> None:
        """Append one line, with numbers rounded to six digits."""
        line = {name: _short(value) for name, value in values.items()}
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise BadInput(f"cannot write {str(self._path)!r}: {error.strerror}") from error

    def bring_back(self) -> bool:
        """Write the log anew where it was, if it was deleted meanwhile; return whether it was.

        Raises:
            BadInput: if it cannot be written.
        """
        handle = self._file.fileno()
        held = os.fstat(handle)
        if held.st_nlink:
            return False
        write_whole(os.pread(handle, held.st_size, 0), self._path, "")
        self._file.close()
        self._file = open(self._path, "a+", buffering=1)  # noqa: SIM115  # closed by close()
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _short(value: object) -> object:
    if isinstance(value, list):
        return [_short(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
