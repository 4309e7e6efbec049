"""Engines of other packages, registered under the entry-point group ``attnbench.engines``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import NoReturn

from attnbench.kernels.engines.base import Engine
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.plugins import find_plugins, load_plugin, plugin_names
from attnbench.kernels.told import in_one_line

GROUP = "attnbench.engines"


def load_others(taken: Iterable[str]) -> dict[str, Engine]:
    """Return the engines of other packages by name, sorted. An engine that cannot be loaded is listed as not available.

    So is a name that two packages claim. A name that is taken stays what it is.

    Args:
        taken: names that are not free.
    """
    names = set(taken)
    found = find_plugins("engine", GROUP, dict.fromkeys(names, "attnbench's own"))
    engines = {name: _load(point) for name, point in found.points.items()}
    engines |= {name: _unusable(name, problem) for name, problem in found.problems.items() if name not in names}
    return dict(sorted(engines.items()))


def other_names() -> list[str]:
    """Return the names that other packages register for engines, without importing anything."""
    return plugin_names(GROUP)


def _load(point: EntryPoint) -> Engine:
    try:
        engine = check_engine(point.name, load_plugin("engine", point))
    except BadInput as error:
        return _unusable(point.name, str(error))
    return replace(engine, available=lambda: _available(engine), version=lambda: _version(engine))


def check_engine(name: str, loaded: object) -> Engine:
    """Check that ``loaded`` is an engine that can be registered as ``name``, and return it.

    Raises:
        BadInput: if it is not an Engine or has another name.
    """
    if not isinstance(loaded, Engine):
        raise BadInput(f"engine {name!r} is a {type(loaded).__name__}; it must be an attnbench.kernels.engines.Engine")
    if loaded.name != name:
        raise BadInput(f"engine {name!r} calls itself {loaded.name!r}; the two names must be the same")
    return loaded


def _available(engine: Engine) -> str | None:
    try:
        return engine.available()
    except (Exception, SystemExit) as error:  # a package that is broken must not hide the other engines
        return in_one_line(error)


def _version(engine: Engine) -> str:
    try:
        return engine.version()
    except (Exception, SystemExit):
        return "unknown"


def _unusable(name: str, reason: str) -> Engine:
    """Return an engine that is never available, always for the same reason."""

    def refuse(*asked: object) -> NoReturn:
        raise Unsupported(reason)

    return Engine(
        name=name,
        summary="from another package",
        available=lambda: reason,
        version=lambda: "",
        supports=lambda plan, task: reason,
        attend=refuse,
        executed_pairs=refuse,
        dense=False,
    )
