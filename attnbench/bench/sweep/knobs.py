"""What a sweep over density turns: the setting that each method names for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Layout
from attnbench.methods import Method, get_method, make_settings, method_names
from attnbench.methods.density import DensitySetting


def turn(
    name: str, given: Mapping[str, Any], layout: Layout, density: float, by: str = "the sweep over density"
) -> dict[str, Any]:
    """Return settings of method ``name`` that keep about ``density`` of the pairs: those given, and its own choice.

    Args:
        name: of the method.
        given: settings that users gave.
        layout: grid and text.
        density: in (0, 1].
        by: who sets the setting, in messages.

    Raises:
        BadInput: for a method without a density setting, a density out of (0, 1], or a value given for that setting.
    """
    get_density_setting(name, by)
    return turn_method(get_method(name), given, layout, density, by)


def turn_method(
    method: Method, given: Mapping[str, Any], layout: Layout, density: float, by: str = "the sweep over density"
) -> dict[str, Any]:
    """Do as ``turn``, for a method that has a density setting and need not be registered."""
    setting = density_setting(method)
    assert setting is not None
    if not 0 < density <= 1:
        raise BadInput(f"density {density!r} must be above 0 and at most 1")
    refuse_taken(method, given, by)
    chosen = setting.choose(method.resolve(make_settings(method, given), layout), layout, density)
    return {**given, **json.loads(json.dumps(chosen))}  # as settings are stored: lists, no tuples


def refuse_taken(method: Method, given: Mapping[str, Any], by: str) -> None:
    """Refuse a value for what ``by`` sets: the method's density setting, if it has one.

    Raises:
        BadInput: quoting it.
    """
    setting = density_setting(method)
    taken = [moved for moved in setting.names if moved in given] if setting else []
    if taken:
        raise BadInput(f"{method.name}.{taken[0]}={given[taken[0]]!r}: {by} sets it; leave it out")


def get_density_setting(name: str, by: str = "a sweep over density") -> DensitySetting:
    """Return the density setting of a method; ``by`` says in messages what would turn it.

    Raises:
        BadInput: if there is no such method, or it names no such setting.
    """
    setting = density_setting(get_method(name))
    if setting is None:
        raise BadInput(
            f"method {name!r} has no setting that {by.replace('the sweep', 'a sweep')} could turn; "
            f"those that have one: {', '.join(with_density_setting(method_names()))}"
        )
    return setting


def with_density_setting(names: Iterable[str]) -> list[str]:
    """Return those of the methods that can be loaded and name a density setting."""
    found = []
    for name in names:
        try:
            method = get_method(name)
        except BadInput:  # a package that is broken must not hide the others
            continue
        if method.density_setting is not None:
            found.append(name)
    return found


def density_setting(method: Method) -> DensitySetting | None:
    """Return a method's density setting; one that is only named takes the density itself."""
    named = method.density_setting
    if isinstance(named, str):
        return DensitySetting((named,), lambda settings, layout, density: {named: density})
    return named
