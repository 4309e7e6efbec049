"""JSON that people write, in which a name that stands twice is a slip: JSON itself lets the last one win."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnbench.kernels.told import quoted


def named_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, as ``object_pairs_hook`` of ``json.loads``.

    Raises:
        ValueError: if it names something twice.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"an object names {quoted(name)} twice")
        found[name] = value
    return found
