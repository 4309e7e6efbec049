"""What was given, told in the sentence of an error: in few words, whatever it is."""

from __future__ import annotations

from collections.abc import Mapping

MOST_CHARACTERS = 80
"""The longest value that is quoted as it is written."""

MOST_OF_PATH = 4096
"""The longest path of Linux."""

_SIZED = (str, bytes, list, tuple, set, frozenset, Mapping)
_OF_TENSORS = ("dtype", "shape", "device", "layout")


def quoted(value: object) -> str:
    """Return a value as it is written if that is short and on one line, otherwise what kind of thing it is."""
    if _is_tensor(value) or (isinstance(value, _SIZED) and len(value) > MOST_CHARACTERS):
        return kind_of(value)
    written = _written(value)
    return kind_of(value) if written is None else written


def in_one_line(error: BaseException) -> str:
    """Return the kind of an error and its message, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def quoted_path(path: str) -> str:
    """Return a path as it is written, however long a system lets it be: its end says most."""
    return repr(path) if len(path) <= MOST_OF_PATH else kind_of(path)


def kind_of(value: object) -> str:
    """Return what kind of thing a value is, without what it holds. Short texts, numbers and None are quoted.

    A tensor is told by dtype, shape and device, and by its layout if it is not strided; a dictionary by its keys.
    """
    if _is_tensor(value):
        dtype, shape, device, layout = (getattr(value, name) for name in _OF_TENSORS)
        sparse = str(layout).removeprefix("torch.").replace("strided", "")
        return f"{sparse} {str(dtype).removeprefix('torch.')} {list(shape)} on {device}".lstrip()
    if isinstance(value, Mapping):
        names = ", ".join(map(str, value)) if len(value) <= MOST_CHARACTERS else ""
        short = 0 < len(names) <= MOST_CHARACTERS and names.isprintable()
        return f"a dictionary of {names if short else f'{len(value):,} items' if value else 'nothing'}"
    written = _written(value) if value is None or isinstance(value, (int, float, str)) else None
    if written is not None:
        return written
    if isinstance(value, str):
        return f"{value[: MOST_CHARACTERS // 2]!r}, cut off after {MOST_CHARACTERS // 2} of {len(value):,} characters"
    return f"of type {type(value).__name__}"


def _is_tensor(value: object) -> bool:
    """Whether it is a tensor; torch need not be loaded for this."""
    return not isinstance(value, type) and all(hasattr(value, name) for name in _OF_TENSORS)


def _written(value: object) -> str | None:
    """Return a value as it is written, None if that is long or takes several lines."""
    try:
        written = repr(value)
    except ValueError:  # Python writes no whole number of more than some thousand digits
        return None
    return written if len(written) <= MOST_CHARACTERS and written.isprintable() else None
