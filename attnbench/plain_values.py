"""Values of a data frame as plain Python ones."""

from __future__ import annotations

from typing import Any


def plain(value: Any) -> Any:
    """Return a plain Python value; what pandas uses for "missing" becomes None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return list(value)
    return None if value is None or value != value or str(value) in ("NaT", "<NA>") else value
