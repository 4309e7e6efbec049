"""What clips say of the methods that are timed: the PSNR of those made with the same method and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cache

from attnbench.kernels.errors import BadInput
from attnbench.methods.entries import Entry, as_entries
from attnbench.methods.registry import get_method, make_settings
from attnbench.results.gaps import Gap, gaps
from attnbench.results.load import Results
from attnbench.results.records.cells import Row, canonical_json, settings_of

METRIC = "psnr"

QualityKey = tuple[str, str]
"""A method, and the canonical JSON of its settings as they were asked for, by ``effective_settings``."""


@cache
def effective_settings(method: str, given: str) -> str:
    """Return given settings together with the defaults of all others, before a grid resolves them, as canonical JSON.

    So it does not matter whether a default was spelled out. Of a method that is not installed, or which does not know
    these settings, they are returned as they are.
    """
    values = settings_of(given)
    if values is None:
        return given
    try:
        return canonical_json(dataclasses.asdict(make_settings(get_method(method), values)))
    except BadInput:
        return given


def quality_of(row: Row, quality: Mapping[QualityKey, Gap]) -> Gap | None:
    """Return what clips say of a row; None where none match, and where a density was asked for, which clips lack."""
    if row.density_asked is not None:
        return None
    return quality.get((row.method, effective_settings(row.method, row.settings_asked)))


def clip_quality(results: Results, known: Iterable[Gap] | None = None) -> dict[QualityKey, Gap]:
    """Return the PSNR of clips against full attention's, by method and the settings that were asked for.

    Latencies and clips have different grids, and so resolved settings differ: what was asked for joins them, with
    defaults filled in. Of several runs with the same settings the one with the most pairs counts, and the last of
    those.

    Args:
        results: with the requests of the runs.
        known: the gaps of its clips, where they were computed before.
    """
    asked = {
        header.run_id: [_entry(each) for each in as_entries(header.request.get("methods")) or ()]
        for header in results.headers
    }
    found: dict[QualityKey, Gap] = {}
    for gap in gaps(results.quality) if known is None else known:
        given = _settings_asked(gap, asked.get(gap.run_id, []))
        if gap.metric == METRIC and given is not None:
            key = gap.method, effective_settings(gap.method, given)
            before = found.get(key)
            if before is None or gap.gap.pairs >= before.gap.pairs:
                found[key] = gap
    return found


def _entry(given: object) -> Entry:
    if isinstance(given, Mapping):
        return Entry(str(given.get("method")), dict(given.get("settings") or {}))
    return given if isinstance(given, Entry) else Entry(str(given))


def _settings_asked(gap: Gap, entries: Iterable[Entry]) -> str | None:
    """Return the settings that a gap's method was given: those of its entry, which its resolved settings hold.

    A grid may have cut them, so the only entry of the method is that of the gap too.
    """
    mine, resolved = (
        [entry.settings for entry in entries if entry.method == gap.method],
        settings_of(gap.settings) or {},
    )
    alike = [
        settings
        for settings in mine
        if all(canonical_json(resolved.get(name)) == canonical_json(value) for name, value in settings.items())
    ]
    alike = alike or (mine if len(mine) == 1 else [])
    return canonical_json(max(alike, key=len)) if alike else None
