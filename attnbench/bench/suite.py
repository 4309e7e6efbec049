"""A suite: a TOML file of cells, each of which is one call of a command."""

from __future__ import annotations

import itertools
import math
import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from attnbench.inputs.files import read_named
from attnbench.kernels.errors import BadInput, unknown_name

OWN_KEYS = ("command", "name")
MOST_CELLS = 10_000
_LONGEST = 255  # bytes of a file name
_FILE_INPUTS = ("video:", "capture:")
_OF_CELL = "cell:"
"""What begins a path that is the folder of another cell."""


@dataclass(frozen=True)
class SuiteOption:
    """An option of a command, as far as a suite needs it.

    Attributes:
        word: as on the command line, ``--kv-heads``.
        negation: of a flag, ``--no-trace``; empty if it has none.
        flag: whether it takes no value.
        several: whether it may be repeated.
        path: whether its value is a file or folder.
    """

    word: str
    negation: str = ""
    flag: bool = False
    several: bool = False
    path: bool = False


Options = Mapping[str, Mapping[str, SuiteOption]]
"""The options of each command, by the keys of a suite: long names with underscores."""


@dataclass(frozen=True)
class SuiteCell:
    """One call of a command.

    Attributes:
        name: where its results go, below the suite's folder.
        command: of attnbench.
        words: what is typed after the command.
        needs: names of earlier cells whose results it begins with.
    """

    name: str
    command: str
    words: tuple[str, ...]
    needs: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The call as it would be typed."""
        return shlex.join(["attnbench", self.command, *self.words])


def read_suite(path: Path, options: Options, command: str, out: Path) -> list[SuiteCell]:
    """Return the cells of a suite file, lists multiplied out.

    Args:
        path: a TOML file with ``[defaults]`` and ``[[cells]]``; paths in it are relative to its folder.
        options: of the commands that a cell may call.
        command: of cells that name none.
        out: folder of the suite's results; a path "cell:NAME" is the folder of that cell below it.

    Raises:
        BadInput: if the file cannot be read, a key or value cannot be used, two cells have one name, or a cell begins
            with the results of one that does not come before it.
    """
    try:
        document = tomllib.loads(read_named(path).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"suite {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"suite {str(path)!r} is not TOML: {error}") from error
    for key in document:
        if key not in ("defaults", "cells"):
            raise _unknown("table", key, f"suite {str(path)!r}", ("defaults", "cells"))
    defaults, cells = document.get("defaults", {}), document.get("cells", [])
    if not isinstance(defaults, dict) or not isinstance(cells, list) or not all(isinstance(x, dict) for x in cells):
        raise BadInput(f"suite {str(path)!r} must have one table [defaults] and tables [[cells]]")
    if not cells:
        raise BadInput(f"suite {str(path)!r} has no [[cells]]")
    found: dict[str, SuiteCell] = {}
    folders: set[str] = set()
    for number, cell in enumerate(cells, 1):
        for made in _expanded(path, out, number, defaults, cell, options, command):
            if missing := [name for name in made.needs if name not in found]:
                told = unknown_name("earlier cell", missing[0], list(found))
                raise BadInput(f"cell {number} of suite {str(path)!r}: {told}")
            if made.name in found:
                raise BadInput(f"suite {str(path)!r} has two cells named {made.name!r}: give each a name of its own")
            above = [str(folder) for folder in PurePosixPath(made.name).parents]
            if made.name in folders or not found.keys().isdisjoint(above):
                raise BadInput(f"suite {str(path)!r}: {made.name!r} and another cell would be one inside the other")
            found[made.name] = made
            folders.update(above)
    return list(found.values())


def _expanded(
    path: Path, out: Path, number: int, defaults: Mapping[str, Any], cell: Mapping[str, Any], options: Options,
    command: str,
) -> Iterator[SuiteCell]:  # fmt: skip
    """Yield a call for each combination of the values that a cell lists."""
    where = f"cell {number} of suite {str(path)!r}"
    called = str(cell.get("command", defaults.get("command", command)))
    if called not in options:
        raise _unknown("command", called, where, options)
    known = options[called]
    for key in cell:
        if key not in known and key not in OWN_KEYS:
            raise _unknown("key", key, where, (*known, *OWN_KEYS))
    for key in defaults:
        if key not in OWN_KEYS and not any(key in each for each in options.values()):
            raise _unknown("key", key, f"[defaults] of suite {str(path)!r}", {*itertools.chain(*options.values())})
    values = {key: value for key, value in {**defaults, **cell}.items() if key in known}
    axes = [[(key, one) for one in _axis(where, key, value, known[key])] for key, value in values.items()]
    if (count := math.prod(map(len, axes))) > MOST_CELLS:
        raise BadInput(f"{where} multiplies out to {count:,} cells; {MOST_CELLS:,} are the most")
    template = cell.get("name", defaults.get("name"))
    for place, chosen in enumerate(itertools.product(*axes), 1):
        several = [_text(value) for (key, value), axis in zip(chosen, axes, strict=True) if len(axis) > 1]
        given = {key: _text(value) for key, value in chosen}
        needs = {
            key: _name(where, value.removeprefix(_OF_CELL), given, key)
            for key, value in chosen
            if known[key].path and isinstance(value, str) and value.startswith(_OF_CELL)
        }
        words = [
            word
            for key, value in chosen
            for word in ([known[key].word, str(out / needs[key])] if key in needs else _words(path, known[key], value))
        ]
        name = _name(where, template, given) if template is not None else _default_name(called, number, place, several)
        yield SuiteCell(name, called, tuple(words), tuple(needs.values()))


def _unknown(kind: str, name: str, where: str, known: Iterable[str]) -> BadInput:
    return BadInput(f"{where}: {unknown_name(kind, name, list(known))}")


def _axis(where: str, key: str, value: Any, option: SuiteOption) -> list[Any]:
    """Return the values of a key that multiply out: of an option that takes several values, the lists in its list."""
    if option.several:
        listed = value if isinstance(value, list) else [value]
        axis = listed if listed and all(isinstance(each, list) for each in listed) else [listed]
    else:
        axis = value if isinstance(value, list) else [value]
    if not axis or axis == [[]] or (option.several and not all(axis)):
        raise BadInput(f"{key} in {where} is an empty list: leave it out, or give a value")
    for one in axis:
        for each in one if isinstance(one, list) and option.several else [one]:
            if not isinstance(each, (str, int, float)) or isinstance(each, bool) != option.flag:
                wanted = "true or false" if option.flag else "text or a number"
                raise BadInput(f"{key} {each!r} in {where} must be {wanted}")
    return axis


def _words(path: Path, option: SuiteOption, value: Any) -> list[str]:
    """Return how an option with this value is typed."""
    if option.flag:
        return [option.word] if value else [option.negation] if option.negation else []
    values = value if isinstance(value, list) else [value]
    return [word for each in values for word in (option.word, _located(path, option, str(each)))]


def _located(path: Path, option: SuiteOption, text: str) -> str:
    """Return a value with its path, where it is one, seen from the current folder."""
    prefix = next((kind for kind in _FILE_INPUTS if option.word == "--inputs" and text.startswith(kind)), "")
    if not prefix and not option.path:
        return text
    return prefix + os.path.normpath(path.parent / Path(text.removeprefix(prefix)).expanduser())


def _text(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _default_name(command: str, number: int, place: int, several: Iterable[str]) -> str:
    words = [re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-") for text in several]
    return "-".join(filter(None, [f"{number:02d}-{command}", *words])) if words else f"{number:02d}-{command}"


def _name(where: str, template: Any, values: Mapping[str, str], key: str = "name") -> str:
    """Return the name of a cell with its keys filled in, as a path below the suite's folder."""
    if not isinstance(template, str):
        raise BadInput(f"{key} {template!r} in {where} must be text")
    if missing := [used for used in re.findall(r"\{(\w*)\}", template) if used not in values]:
        raise BadInput(f"{key} {template!r} in {where} uses {missing[0]!r}, which the cell does not set")
    name = re.sub(r"\{(\w+)\}", lambda found: values[found[1]], template)
    parts = PurePosixPath(name).parts
    if not parts or name.startswith(("/", "~")) or any(part.startswith(".") for part in parts):
        raise BadInput(f"{key} {name!r} in {where} must be a folder below --out that does not begin with a dot")
    if not name.isprintable() or any(len(part.encode()) > _LONGEST for part in parts):
        raise BadInput(f"{key} {name[:80]!r} in {where} cannot be a folder: too long, or with unprintable characters")
    return str(PurePosixPath(name))
