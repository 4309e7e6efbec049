"""The methods that a run measures, each with the settings that were given. A method may occur several times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnbench.kernels.errors import BadInput
from attnbench.methods.registry import ALL, BUILT_IN, method_names, require_name
from attnbench.methods.values import parse_value

_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Entry:
    """A method, and the settings that were given for it. All other settings have their defaults."""

    method: str
    settings: dict[str, Any] = field(default_factory=dict)


def as_entries(given: Any) -> Any:
    """Convert settings by method, which older requests have, to entries. Anything else is returned unchanged."""
    if isinstance(given, Mapping):
        return [Entry(name, settings) for name, settings in given.items()]
    return given


def parse_entry(text: str, what: str = "method", example: str = "scope=query") -> Entry:
    """Read ``NAME`` or ``NAME:setting=value,…``; commas inside brackets or quotes do not separate.

    Args:
        text: as typed.
        what: it names, for messages.
        example: of a setting, for messages.

    Raises:
        BadInput: for a setting without a name or a value, or one that is given twice.
    """
    name, colon, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for part in _parts(rest) if colon else ():
        setting, equals, value = part.partition("=")
        if not equals or not setting.strip():
            raise BadInput(f"{what} {text!r}: {part.strip()!r} must be setting=value, such as {example}")
        if setting.strip() in settings:
            raise BadInput(f"{what} {text!r} sets {setting.strip()!r} twice")
        settings[setting.strip()] = parse_value(value)
    return Entry(name.strip(), settings)


def named(names: Iterable[object]) -> list[Entry]:
    """Return the entry of each name, ``NAME`` or ``NAME:setting=value,…``. Entries are returned unchanged.

    ``all`` stands for the built-in methods, each with its defaults.

    Raises:
        BadInput: for anything that is not text, for text that ``parse_entry`` refuses, and for an unknown method; the
            message names the closest one.
    """
    entries = []
    for name in names:
        if not isinstance(name, (str, Entry)):
            raise BadInput(f"method {name!r} must be a name")
        if name == ALL:
            entries += [Entry(each) for each in BUILT_IN]
            continue
        entry = parse_entry(name) if isinstance(name, str) else name
        require_name(entry.method)
        entries.append(entry)
    return entries


def registered(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries whose methods there are here. Those that only the other version of a gate has are left out.

    Raises:
        BadInput: for any other method that is not registered.
    """
    for entry in entries:
        require_name(entry.method)
    unknown = unknown_methods(entries)
    return [entry for entry in entries if entry.method not in unknown]


def unknown_methods(entries: Iterable[Entry]) -> list[str]:
    """Return the methods of entries that are not registered here, each once."""
    return sorted({entry.method for entry in entries}.difference(method_names()))


def with_settings(entries: Sequence[Entry], pairs: Iterable[str]) -> list[Entry]:
    """Add settings from texts ``name=value`` or ``method.name=value`` to entries; see ``with_values``.

    Raises:
        BadInput: for a text without "=", a method that is not run, or a bare name with several methods.
    """
    values = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip().rpartition(".")[2]:
            raise BadInput(f"--set {pair!r} must be name=value or method.name=value")
        values.append((name.strip(), parse_value(text), f"--set {pair!r}"))
    return _given(entries, values)


def with_values(entries: Sequence[Entry], values: Iterable[tuple[str, Any]]) -> list[Entry]:
    """Add settings to entries, by ``name`` or ``method.name``.

    A setting applies to each entry of its method that does not set it itself. If a name is given twice, the last one
    counts.

    Raises:
        BadInput: for a method that is not run, or a bare name with several methods.
    """
    return _given(entries, [(name, value, f"setting {name!r}") for name, value in values])


def _given(entries: Sequence[Entry], values: Iterable[tuple[str, Any, str]]) -> list[Entry]:
    names = list(dict.fromkeys(entry.method for entry in entries))
    shared: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name, value, quoted in values:
        owner, dot, setting = name.rpartition(".")
        if not dot:
            if len(names) != 1:
                raise BadInput(f"{quoted} names no method and {len(names)} are run: write METHOD.{name}")
            owner = names[0]
        if owner not in shared:
            raise BadInput(f"{quoted} is for method {owner!r}, which is not run; run: {', '.join(names)}")
        shared[owner][setting] = value
    return [Entry(entry.method, {**shared[entry.method], **entry.settings}) for entry in entries]


def distinct(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries in their order, without duplicates."""
    found: list[Entry] = []
    for entry in entries:
        if entry not in found:
            found.append(entry)
    return found


def _parts(text: str) -> list[str]:
    """Split a text at its commas, but not inside brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in _OPENING) - (character in _CLOSING)
            if character == "," and depth == 0:
                parts.append("")
                continue
        parts[-1] += character
    return parts
