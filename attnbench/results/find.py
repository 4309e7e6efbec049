"""Which files a path of results stands for: journals, tables, traces and training logs, each file once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from attnbench.inputs.files import special_kind, visible
from attnbench.kernels.errors import BadInput
from attnbench.results.journal import TRAINING_LOG

_TRACE = ".json.gz"
PARQUET = ".parquet"
"""How the names of tables end."""

CALIBRATION, NOISE = "calibration.json", "noise.json"
"""What a calibration measures, and the noise that it found; both stand in its folder."""


class LostLink(UserWarning):
    """A link below a folder of results leads nowhere. What it led to was not read."""


def find_results(path: str | os.PathLike[str]) -> tuple[list[Path], dict[str, Path]]:
    """Return the journals that a file or a folder stands for, and the Chrome traces of cells by cell_id.

    A folder is read recursively: journals are ``*.jsonl`` and ``*.jsonl.gz``, traces ``traces/*.json.gz``. A folder
    that holds no journal stands for its tables, ``*.parquet``. Links to files and folders are followed, and each real
    file is returned once. Names that begin with a dot are skipped, and so are training logs. Of a single journal the
    traces are those in the folder ``traces`` beside it.

    Warns:
        LostLink: if a link below the folder leads nowhere.

    Raises:
        BadInput: if there is no journal and no table, the path is a CSV file or a link that leads nowhere, a journal is
            a named pipe or a device, or a folder cannot be read.
    """
    root = Path(path)
    if not os.path.exists(root):  # False also for names that the system refuses
        if os.path.islink(root):
            raise BadInput(_lost(root))
        raise BadInput(
            f"no such file or folder: {str(path)!r}; it must be a results journal or a folder that holds some"
        )
    if root.is_dir():
        files = sorted(_below(root, _is_result))
        journals, traces = [each for each in files if _is_journal(each.name)], list(filter(_is_trace, files))
        journals = journals or find_tables(root)
    elif root.suffix == ".csv":
        raise BadInput(f"{str(path)!r} has no samples: name the {PARQUET} table beside it")
    else:
        journals, traces = [root], sorted(visible(root.parent.glob(f"traces/*{_TRACE}")))
    if not journals:
        raise BadInput(f"no results in {str(path)!r}: it holds no .jsonl journal and no .parquet table")
    for each in journals:
        _check_file(each)
    return journals, {each.name.removesuffix(_TRACE): each for each in traces}


def has_journals(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a file, or a folder that holds a journal."""
    return not os.path.isdir(path) or any(_below(Path(path), lambda place: _is_journal(place.name)))


def find_tables(folder: Path) -> list[Path]:
    """Return the tables below a folder, as ``find_results`` returns journals."""
    return sorted(_below(folder, lambda place: place.name.endswith(PARQUET)))


def find_training_logs(path: str | os.PathLike[str]) -> list[Path]:
    """Return the training logs below a folder, as ``find_results`` returns journals; none for any other path.

    Warns:
        LostLink: as ``find_results``.

    Raises:
        BadInput: if a folder cannot be read.
    """
    return sorted(_below(Path(path), _is_training_log)) if os.path.isdir(path) else []


def find_calibrations(path: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of finished calibrations at or below a folder, in order; none for any other path.

    Warns and raises as ``find_training_logs``.
    """
    found = _below(Path(path), lambda place: place.name == NOISE) if os.path.isdir(path) else ()
    return sorted(place.parent for place in found if place.with_name(CALIBRATION).is_file())


def _check_file(journal: Path) -> None:
    if kind := special_kind(journal.stat().st_mode):
        raise BadInput(f"{str(journal)!r} is {kind}; a results journal must be a file")


def _is_journal(name: str) -> bool:
    return name.endswith((".jsonl", ".jsonl.gz")) and name.removesuffix(".gz") != TRAINING_LOG


def _is_training_log(place: Path) -> bool:
    return place.name.removesuffix(".gz") == TRAINING_LOG


def _is_result(place: Path) -> bool:
    return _is_journal(place.name) or _is_trace(place)


def _is_trace(place: Path) -> bool:
    return place.name.endswith(_TRACE) and place.parent.name == "traces"


def _lost(link: Path) -> str:
    return f"{str(link)!r} is a link to {os.readlink(link)!r}, which does not exist"


def _below(root: Path, wanted: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield the wanted files below a folder. Links are followed last: a real path wins over a link to it."""
    seen: set[tuple[int, int]] = set()
    folders, linked_folders, linked_files = [root], list[Path](), list[Path]()
    while folders or linked_folders:
        folder = folders.pop() if folders else linked_folders.pop(0)
        if not _is_new(folder, seen):
            continue
        for place, is_link in _entries(folder):
            if os.path.isdir(place):
                (linked_folders if is_link else folders).append(place)
            elif is_link:
                linked_files.append(place)
            elif wanted(place) and _is_new(place, seen):
                yield place
    for link in sorted(linked_files):
        if os.path.exists(link):
            if wanted(link) and _is_new(link, seen):
                yield link
        elif wanted(link) or not link.suffix:
            warnings.warn(_lost(link), LostLink, stacklevel=2)


def _entries(folder: Path) -> list[tuple[Path, bool]]:
    """Return what a folder holds, in order, and whether each is a link; names that begin with a dot are left out."""
    try:
        with os.scandir(folder) as found:
            names = sorted((entry.name, entry.is_symlink()) for entry in found if not entry.name.startswith("."))
    except OSError as error:
        raise BadInput(f"cannot read the folder {str(folder)!r}: {error.strerror}") from error
    return [(folder / name, is_link) for name, is_link in names]


def _is_new(place: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether a file or folder is seen for the first time, by whatever path; not if it was deleted meanwhile."""
    try:
        status = place.stat()
    except FileNotFoundError:
        return False
    key = (status.st_dev, status.st_ino)
    if key in seen:
        return False
    seen.add(key)
    return True
