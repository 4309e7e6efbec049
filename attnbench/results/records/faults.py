"""What is wrong with a value, in the words of attnbench: pydantic finds it."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_QUOTED = 60
"""Characters of a name or a value that are quoted."""

_LIMITS = {
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be below {lt}",
}
"""Words for limits, by pydantic's types of errors."""

_UNION = ("int", "float", "str", "bool")
"""Branches of a union, which pydantic names as places."""


def first_fault(error: ValidationError, what: str = "row") -> str:
    """Return the first thing that is wrong with a record, as "latency_ms: must be above 0".

    Args:
        error: what pydantic found.
        what: the name of the whole record, where that is wrong and no field of it.
    """
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part)[:_QUOTED] for part in first["loc"])
    return f"{place or what}: {_words(first)}"


def typed_fault(error: ValidationError) -> str:
    """Return the first value that cannot be used, as "stability_calls 1 must be 2 or more"."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"] if part not in _UNION)
    words = _words(first)
    return f"{name} {first['input']!r} {words if words.startswith('must be') else f'cannot be used: {words}'}"


def _words(first: ErrorDetails) -> str:
    limit = _LIMITS.get(first["type"])
    if limit:
        return limit.format(**first["ctx"])
    return str(first["msg"]).removeprefix("Value error, ")[: 4 * _QUOTED]
