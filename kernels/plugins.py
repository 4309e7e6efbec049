"""Objects that other packages register under an entry-point group: found by name, and loaded one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from attnbench.kernels.errors import BadInput


def find_plugins(kind: str, group: str, taken: Mapping[str, str]) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name, without importing anything.

    Args:
        kind: what they are, in the singular, for messages.
        group: the entry-point group.
        taken: names that are already in use, and their owners.

    Raises:
        BadInput: if two have the same name, or one has a name that is already in use.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        clash = taken.get(point.name) or (found[point.name].value if point.name in found else None)
        if clash and clash != point.value:
            raise BadInput(f"two {kind}s are named {point.name!r}: {clash} and {point.value}; uninstall or rename one")
        found[point.name] = point
    return found


def load_plugin(kind: str, point: EntryPoint) -> object:
    """Import the object that an entry point names.

    Raises:
        BadInput: if that fails in any way, with the reason in one sentence.
    """
    try:
        return point.load()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"{kind} {point.name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {reason}"
        ) from error
