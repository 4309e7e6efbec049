"""Objects that other packages register under an entry-point group: found by name, and loaded one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from attnbench.kernels.errors import BadInput
from attnbench.kernels.told import in_one_line


@dataclass(frozen=True)
class Plugins:
    """What other packages register under a group.

    Attributes:
        points: the entry points that can be used, by name.
        problems: of the names that several claim, why that is, in one sentence.
    """

    points: Mapping[str, EntryPoint]
    problems: Mapping[str, str]


@dataclass(frozen=True)
class Code:
    """Where the code behind a name is.

    Attributes:
        module: the top-level module or package.
        place: its folder, or its file.
        package: the name that pip knows it by, and its version; empty if it has none.
    """

    module: str
    place: Path
    package: str
    version: str


def code_of(group: str, name: str) -> Code | None:
    """Return where the code is that is registered under a name, without importing it; None if it cannot be found."""
    point = next(iter(entry_points(group=group, name=name)), None)
    if point is None:
        return None
    module = point.module.partition(".")[0]
    try:
        spec = find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    origin = folders[0] if folders else None if spec is None or not spec.has_location else spec.origin
    if origin is None or not Path(origin).exists():
        return None
    known = ("", "") if point.dist is None else (point.dist.name, point.dist.version)
    return Code(module, Path(origin), *known)


def plugin_names(group: str) -> list[str]:
    """Return the names that other packages register under a group, without importing anything."""
    return sorted({point.name for point in entry_points(group=group)})


def find_plugins(kind: str, group: str, taken: Mapping[str, str]) -> Plugins:
    """Return the entry points of a group by name, without importing anything.

    A name that two packages claim is no entry point of either; one that is taken stays with whoever has it.

    Args:
        kind: what they are, in the singular, for messages.
        group: the entry-point group.
        taken: names that are not free, and who has each.
    """
    found: dict[str, EntryPoint] = {}
    problems: dict[str, str] = {}
    for point in entry_points(group=group):
        clash = taken.get(point.name) or (found[point.name].value if point.name in found else None)
        if clash and clash != point.value:
            whose = f"{point.value}{_package(point)}"
            problems[point.name] = f"two {kind}s are named {point.name!r}: {clash} and {whose}; uninstall or rename one"
        found[point.name] = point
    return Plugins({name: point for name, point in found.items() if name not in problems}, problems)


def load_plugin(kind: str, point: EntryPoint) -> object:
    """Import the object that an entry point names.

    Raises:
        BadInput: if that fails in any way, with the reason in one sentence.
    """
    try:
        return point.load()
    except SystemExit as error:
        raise BadInput(
            f"{kind} {_named(point)} cannot be loaded: importing it called sys.exit({error.code!r})"
        ) from error
    except Exception as error:
        raise BadInput(f"{kind} {_named(point)} cannot be loaded: {in_one_line(error)}") from error


def _named(point: EntryPoint) -> str:
    return f"{point.name!r} ({point.value}{_package(point)})"


def _package(point: EntryPoint) -> str:
    return "" if point.dist is None else f" of package {point.dist.name}"
