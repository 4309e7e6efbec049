"""Cells of two tables that are the same though other words asked for them, and what a run was asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnbench.results.layers import Mean
from attnbench.results.load import Results
from attnbench.results.records.cells import canonical_json

_WORDS = ("settings_given", "engine_asked", "density_asked", "layer")
"""What was asked that settings in effect, and the engine that ran, stand in for."""


def joined(a: Mapping[str, Sequence[Mean]], b: Mapping[str, Sequence[Mean]]) -> dict[str, str]:
    """Return the cell_ids in B, by those in A, of cells that only one of them has and that ran alike.

    Alike are those whose settings in effect and engines are equal in every layer, and all else that was asked. Where
    several are alike in one table, none of them is joined.

    Args:
        a, b: the means of both by cell_id, those of the newest run last.
    """
    alone_a, alone_b = (
        _by_what_ran({key: runs[-1] for key, runs in side.items() if key not in other})
        for side, other in ((a, b), (b, a))
    )
    return {
        mine[0]: alone_b[ran][0]
        for ran, mine in alone_a.items()
        if len(mine) == 1 and len(alone_b.get(ran, ())) == 1
    }  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What a table was asked for, and what ran in it.

    Attributes:
        methods: each with its settings as canonical JSON; None if a run does not say.
        ran: the newest means by what they came to, as of ``what_ran``.
        unknown: methods that it was asked for and did not know.
    """

    methods: frozenset[tuple[str, str]] | None = None
    ran: Mapping[str, Mean] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()

    def asks(self, mean: Mean) -> bool:
        """Whether it was asked for a method with its settings, or nobody knows."""
        given = mean.first.settings_given
        return self.methods is None or given is None or (mean.first.method, given) in self.methods

    def lacking(self, mean: Mean) -> str:
        """Say why B has no such mean."""
        if mean.first.method in self.unknown:
            return "B does not know this method"
        said = "B does not have it" if self.asks(mean) else "not asked for in B"
        alike = self.ran.get(what_ran(mean)) if self.ran else None
        return said if alike is None else f"{said}, where {asked_words(alike)} has the same settings in effect"


def wanted_of(b: Results, means: Mapping[str, Sequence[Mean]], keys: Collection[str]) -> Wanted:
    """Return what B was asked for and ran, where it lacks some of the cells that A has.

    Args:
        b: the table.
        means: its means by cell_id, those of the newest run last.
        keys: the cell_ids of A.
    """
    if all(key in means for key in keys):
        return Wanted()
    return Wanted(methods_asked(b), {what_ran(runs[-1]): runs[-1] for runs in means.values()}, methods_unknown(b))


def methods_unknown(results: Results) -> frozenset[str]:
    """Return the methods that runs were asked for and did not know."""
    return frozenset(name for header in results.headers for name in header.unknown_methods)


def asked_words(mean: Mean) -> str:
    """Write what was asked: sta {"tile":[6,8,8]} on triton."""
    first = mean.first
    words = f"{first.method} {'at its defaults' if first.settings_asked == '{}' else first.settings_asked}"
    return words if first.engine_asked is None else f"{words} on {first.engine_asked}"


def asked_apart(a: Mean, b: Mean) -> list[str]:
    """Say in what words two means were asked for that ran alike; nothing if in the same."""
    return [] if a.cell_id == b.cell_id else [f"asked for as {asked_words(a)} in A, as {asked_words(b)} in B"]


def what_ran(mean: Mean) -> str:
    """Return what a mean came to, as canonical JSON: its cell with the settings and engine of every layer."""
    asked: dict[str, Any] = {name: value for name, value in mean.first.asked().items() if name not in _WORDS}
    return canonical_json([asked, [[row.layer, row.settings, row.engine] for row in mean.members]])


def methods_asked(results: Results) -> frozenset[tuple[str, str]] | None:
    """Return the methods that runs were asked for, with their settings as canonical JSON; None if one does not say."""
    found: set[tuple[str, str]] = set()
    for header in results.headers:
        asked = header.request.get("methods")
        if isinstance(asked, dict):
            pairs = list(asked.items())
        elif isinstance(asked, list) and all(isinstance(each, dict) and "method" in each for each in asked):
            pairs = [(each["method"], each.get("settings") or {}) for each in asked]
        else:
            return None
        found.update((str(name), canonical_json(settings or {})) for name, settings in pairs)
    return frozenset(found) if results.headers else None


def _by_what_ran(means: Mapping[str, Mean]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, mean in means.items():
        found.setdefault(what_ran(mean), []).append(key)
    return found
