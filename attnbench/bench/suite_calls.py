"""How a cell of a suite is called: begun anew, or continued where an earlier call left it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from attnbench.results.journal import JOURNAL
from attnbench.results.load import read
from attnbench.results.plans import SWEEP
from attnbench.results.training import CONFIG


def begun(place: Path) -> bool:
    """Whether a command has begun to write there."""
    return any((place / name).exists() for name in (JOURNAL, SWEEP, CONFIG))


def words_of(command: str, words: Sequence[str], place: Path) -> list[str] | None:
    """Return what is typed after ``attnbench`` to measure a cell, or to go on with it; None if a step was measured.

    Of a step that was killed, the journal is deleted: it is not resumed, but measured anew.

    Args:
        command: of the cell.
        words: its options.
        place: its folder.
    """
    if not begun(place):
        return [command, *words, "--out", str(place)]
    if command == "step":
        if read(place / JOURNAL).steps:
            return None
        (place / JOURNAL).unlink()
        return [command, *words, "--out", str(place)]
    return [command, "--resume", str(place), *(_kept(words) if command == "train" else ())]


def _kept(words: Sequence[str]) -> Iterator[str]:
    """Yield what a training run is told again when it goes on: where, and for how long."""
    for word, value in itertools.pairwise(words):
        if word in ("--device", "--seconds"):
            yield from (word, value)
