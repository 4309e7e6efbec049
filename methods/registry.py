"""Find methods by name: the built-in ones, and those that other packages register under ``attnbench.methods``."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.kernels.plugins import Plugins, find_plugins, load_plugin
from attnbench.kernels.told import quoted
from attnbench.kernels.tracing import constant
from attnbench.methods.base import Method
from attnbench.methods.density import DensitySetting

GROUP = "attnbench.methods"
RESERVED = frozenset(
    ["q", "k", "v", "method", "grid", "text", "scale", "layer", "step", "state", "params", "engine", "return_lse"]
) | {
    "return_plan",
    "group",
    "parallel",
}  # argument names of attnbench.attention; a setting of that name could not be passed

BUILT_IN = {
    "full": "attnbench.methods.full:METHOD",
    "moba": "attnbench.methods.moba:METHOD",
    "vmoba": "attnbench.methods.vmoba:METHOD",
    "sliding-window": "attnbench.methods.sliding_window:METHOD",
    "sta": "attnbench.methods.sta:METHOD",
    "radial": "attnbench.methods.radial:METHOD",
    "sparge": "attnbench.methods.sparge:METHOD",
    "xattention": "attnbench.methods.xattention:METHOD",
    "draft": "attnbench.methods.draft:METHOD",
    "sla": "attnbench.methods.sla:METHOD",
    "rainfusion2": "attnbench.methods.rainfusion2:METHOD",
    "rainfusion": "attnbench.methods.rainfusion:METHOD",
    "mod-dit": "attnbench.methods.mod_dit:METHOD",
    "liteattention": "attnbench.methods.liteattention:METHOD",
    "nabla": "attnbench.methods.nabla:METHOD",
    "longcat-bsa": "attnbench.methods.longcat_bsa:METHOD",
    "svg1": "attnbench.methods.svg1:METHOD",
    "bsa": "attnbench.methods.bsa:METHOD",
    "svg2": "attnbench.methods.svg2:METHOD",
    "ditfastattn": "attnbench.methods.ditfastattn:METHOD",
    "vsa": "attnbench.methods.vsa:METHOD",
    "vsa-h3": "attnbench.methods.vsa_h3:METHOD",
    "sol-attn": "attnbench.methods.sol_attn:METHOD",
    "subblock": "attnbench.methods.subblock:METHOD",
}

DEFAULT = ("full", "moba", "vmoba", "sliding-window", "sta")
"""Methods that are measured where none is named: dense attention, and one or two of each kind of sparse one."""

ALL = "all"
"""Stands for all built-in methods where methods are named."""

OF_ONE = "ATTNBENCH_METHODS_OF_ONE"
"""The variable that holds the methods, one a line, that only one of the two versions has which a gate compares."""


@cache
def _third_party() -> Plugins:
    return find_plugins("method", GROUP, BUILT_IN | {ALL: "all built-in methods"})


def method_names() -> tuple[str, ...]:
    """Return the names of all registered methods, built-in ones first."""
    others = _third_party()
    return (*BUILT_IN, *sorted({*others.points, *others.problems} - set(BUILT_IN)))


def name_problems() -> Mapping[str, str]:
    """Return why names are not clear, by name: two packages claim one, or one claims a name of ours."""
    return _third_party().problems


def of_one_version() -> frozenset[str]:
    """Return the methods that only one of the two versions has which a gate compares; none in a run alone."""
    return frozenset(os.environ.get(OF_ONE, "").splitlines())


def require_name(name: str) -> None:
    """Check that a method of that name is registered, without importing it, here or in the other version of a gate.

    Raises:
        BadInput: if there is none.
    """
    if name not in method_names() and name not in of_one_version():
        raise unknown_name("method", name, method_names())


@cache
def get_method(name: str) -> Method:
    """Return the method of that name.

    Raises:
        BadInput: if there is none, or if the object that is registered under the name is not a valid method.
    """
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name].split(":")
        loaded = getattr(importlib.import_module(module), attribute)
    elif problem := name_problems().get(name):
        raise BadInput(problem)
    elif name in _third_party().points:
        loaded = load_plugin("method", _third_party().points[name])
    else:
        raise unknown_name("method", name, method_names())
    return check_method(name, loaded)


def find_method(method: str | Method) -> Method:
    """Return the method of that name, or ``method`` itself if it is a valid Method. torch.compile can trace this.

    Raises:
        BadInput: for the same reasons as ``get_method`` and ``check_method``, and if ``method`` is neither a name nor a
            Method.
    """
    import torch  # here: naming methods needs none of it

    if isinstance(method, str):
        if not torch.compiler.is_compiling():
            return get_method(method)
        if problem := _attach(method):
            raise BadInput(problem)
        attached: Method = getattr(_attached, method)
        return attached
    if not isinstance(method, Method):
        raise BadInput(f"method is {quoted(method)}; it must be a method's name or an attnbench.methods.Method")
    return check_method(method.name, method)


class _Attached:
    """Holds methods as attributes, so that torch.compile can tell whether they are still the same."""


_attached = _Attached()


@constant
def _attach(name: str) -> str | None:
    try:
        setattr(_attached, name, get_method(name))
    except BadInput as error:
        return str(error)
    return None


def check_method(name: str, loaded: object) -> Method:
    """Check that ``loaded`` is a method that can be registered as ``name``, and return it.

    Raises:
        BadInput: if it is not a Method or has another name; if its settings are not a frozen dataclass, use a reserved
            name, or lack a default; or if its density setting, or a setting for each head, is not one of its settings.
    """
    if not isinstance(loaded, Method):
        raise BadInput(f"method {name!r} is a {type(loaded).__name__}; it must be an attnbench.methods.Method")
    if loaded.name != name:
        raise BadInput(f"method {name!r} calls itself {loaded.name!r}; the two names must be the same")
    if problem := _problem_of_settings(name, loaded.settings):
        raise BadInput(problem)
    if problem := _problem_of_density(loaded):
        raise BadInput(problem)
    if problem := _unknown_setting(name, loaded.settings, loaded.per_head):
        raise BadInput(f"per_head of method {name!r}: {problem}")
    return loaded


def _problem_of_density(method: Method) -> str | None:
    named: object = method.density_setting  # which may be anything where nobody checks types
    if named is None:
        return None
    if not isinstance(named, (str, DensitySetting)):
        given = f"density_setting of method {method.name!r} is {quoted(named)}"
        return f"{given}; it must be a setting's name or a DensitySetting"
    problem = _unknown_setting(method.name, method.settings, (named,) if isinstance(named, str) else named.names)
    return None if problem is None else f"density_setting of method {method.name!r}: {problem}"


@constant
def _problem_of_settings(method: str, settings: object) -> str | None:
    parameters = getattr(settings, "__dataclass_params__", None)
    if not isinstance(settings, type) or parameters is None or not parameters.frozen:
        return f"the settings of method {method!r} must be a frozen dataclass, not {quoted(settings)}"
    for field in dataclasses.fields(settings):
        if field.name in RESERVED:
            return f"method {method!r} has a setting {field.name!r}, which is an argument of attnbench.attention"
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            return f"setting {field.name!r} of method {method!r} needs a default"
    return None


def make_settings(method: Method, given: Mapping[str, Any]) -> Any:
    """Return the method's settings with the given values.

    Raises:
        BadInput: for an unknown setting or a value of the wrong type or range.
    """
    if problem := _unknown_setting(method.name, method.settings, tuple(given)):
        raise BadInput(problem)
    return method.settings(**given)


@constant
def _unknown_setting(method: str, settings: type, given: tuple[str, ...]) -> str | None:
    known = [field.name for field in dataclasses.fields(settings)]
    for name in given:
        if name not in known:
            if not known:
                return f"unknown setting {name!r}: method {method!r} has no settings"
            return str(unknown_name(f"setting of {method!r}", name, known))
    return None
