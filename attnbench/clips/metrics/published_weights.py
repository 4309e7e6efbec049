"""Read weights that others publish. They are checked, no code in them runs, and nothing is downloaded."""

from __future__ import annotations

import hashlib
import pickle
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from attnbench.clips.metrics.measured import Skipped


def read_weights(path: Path, *, digest: str, get_it: str) -> dict[str, Tensor]:
    """Return the tensors of a published ``.pth`` file, on the CPU.

    Such a file is a pickle; torch reads it with ``weights_only=True``, which refuses everything but tensors.

    Args:
        path: the file.
        digest: the first hex digits of the file's SHA-256.
        get_it: how a user gets the file; becomes the end of a sentence.

    Raises:
        Skipped: if the file is missing, is another file, or holds more than tensors.
    """
    require_published(path, digest=digest, get_it=get_it)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise Skipped(f"weights {str(path)!r} hold more than tensors, or are not weights: {get_it}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise Skipped(f"weights {str(path)!r} are not a table of tensors: {get_it}")
    return state


def require_published(path: Path, *, digest: str, get_it: str) -> None:
    """Raise unless a file is the published one.

    Args:
        path: the file.
        digest: the first hex digits of the file's SHA-256.
        get_it: how a user gets the file; becomes the end of a sentence.

    Raises:
        Skipped: if the file is missing or is another file.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Skipped(f"weights {path.name!r} are not in {str(path.parent)!r}: {get_it}") from error
    if not found.startswith(digest):
        raise Skipped(
            f"weights {str(path)!r} are truncated or another file (SHA-256 {found[:8]}…, and {digest[:8]}… is needed): "
            f"{get_it}"
        )


def file_of_package(package: str, name: str, *, lacking: str) -> Path:
    """Return the path of a file of an installed package, which is not imported.

    Args:
        package: its name.
        name: of the file in it.
        lacking: what is said if the package is not installed.

    Raises:
        Skipped: if it is not.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        raise Skipped(lacking)
    return Path(found.origin).parent / name
