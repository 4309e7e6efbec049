"""Cards: what ``ls methods`` shows of each method.

The card of a built-in method is read from the source of its file, because importing the file loads torch. If a file
does not state its card as plain values, it is imported.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
from dataclasses import dataclass
from typing import Any

from attnbench.methods.base import Method, Source
from attnbench.methods.recipe import Recipe
from attnbench.methods.registry import BUILT_IN, get_method


@dataclass(frozen=True)
class Card:
    """A short description of a method.

    Attributes:
        name: what users type.
        summary: one line.
        source: the publication.
        settings: the settings with their defaults, in order.
    """

    name: str
    summary: str
    source: Source
    settings: dict[str, Any]


def card(name: str) -> Card:
    """Return the card of the method of that name.

    Raises:
        BadInput: as ``get_method``.
    """
    written = _written(name) if name in BUILT_IN else None
    return written or card_of(get_method(name))


def card_of(method: Method) -> Card:
    """Return the card of a method that is loaded."""
    settings = method.settings()
    defaults = {field.name: getattr(settings, field.name) for field in dataclasses.fields(method.settings)}
    given: object = method.source  # which may be anything where nobody checks types
    source = given if isinstance(given, Source) else Source("", "")
    return Card(method.name, method.summary, source, defaults)


def _written(name: str) -> Card | None:
    """Read the card of a built-in method from its file; return None if the file would have to run."""
    module, _, attribute = BUILT_IN[name].partition(":")
    try:
        body = _body(module)
        method = _arguments(_assigned(body, attribute))
        owner = _class(body, _id(method["settings"]))
        source = method["source"]
        assert isinstance(source, ast.Call)
        return Card(
            ast.literal_eval(method["name"]),
            ast.literal_eval(method["summary"]),
            Source(
                *(ast.literal_eval(value) for value in source.args),
                **{key: ast.literal_eval(value) for key, value in _arguments(source).items()},
            ),
            _inherited(owner)
            | {
                _id(line.target): ast.literal_eval(line.value)
                for line in owner.body
                if isinstance(line, ast.AnnAssign) and line.value is not None and _is_setting(line)
            },
        )
    except (ValueError, KeyError, AssertionError):
        return None


def _body(module: str) -> list[ast.stmt]:
    """Return the statements of a module's source."""
    spec = importlib.util.find_spec(module)
    text = getattr(spec.loader, "get_source", lambda module: None)(module) if spec is not None else None
    if text is None:
        raise KeyError(module)
    parsed: ast.Module = ast.parse(text)
    return parsed.body


def _class(body: list[ast.stmt], name: str) -> ast.ClassDef:
    """Return the definition of a class, of the module that it is imported from if it is not here."""
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module and name in [each.name for each in node.names]:
            return _class(_body(node.module), name)
    raise KeyError(name)


def _inherited(owner: ast.ClassDef) -> dict[str, Any]:
    """Return the settings that a class has of ``Recipe``, with their defaults."""
    bases = [_id(base) for base in owner.bases]
    assert set(bases) <= {"Recipe"}
    return {field.name: field.default for field in dataclasses.fields(Recipe)} if bases else {}


def _is_setting(line: ast.AnnAssign) -> bool:
    return not ast.unparse(line.annotation).startswith("ClassVar")


def _assigned(body: list[ast.stmt], name: str) -> ast.expr:
    """Return what is assigned to ``name`` at the top of a module."""
    for line in body:
        if isinstance(line, ast.Assign) and [_id(target) for target in line.targets] == [name]:
            return line.value
    raise KeyError(name)


def _arguments(call: ast.expr) -> dict[str, ast.expr]:
    """Return the keyword arguments of a call."""
    assert isinstance(call, ast.Call)
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}


def _id(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""
