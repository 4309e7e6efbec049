"""The players of a report: clips inside the page that show full attention, the method and their difference in step."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.inputs.files import inside
from attnbench.report.gap_words import counted
from attnbench.report.words import number
from attnbench.results.records.clips import ClipRow

MOST = 12
"""Largest number of players on a page. Others are only named."""
MOST_BYTES = 12 * 2**20
MOST_SCENES = 8
"""Largest number of prompts and seeds on a page that have curves but no player."""


@dataclass(frozen=True)
class Player:
    """A clip in the page: full attention on the left, the method, and their difference, four times as bright."""

    name: str
    note: str
    uri: str
    alt: str


def players_of(
    clips: Sequence[tuple[Path, ClipRow]],
    keys: Sequence[tuple[str, int]],
    names: Mapping[tuple[str, str, str], str],
) -> tuple[dict[tuple[str, int], list[Player]], str]:
    """Return the players of each prompt and seed that fits on the page, and a sentence about those left out.

    Args:
        clips: clips with their folders.
        keys: prompts and seeds, in the order of the page.
        names: names of the methods, by method, settings and engine.
    """
    found: dict[tuple[str, int], list[Player]] = {}
    count = size = missing = 0
    outside: set[str] = set()
    left: list[Path] = []
    for key in keys:
        named = [
            (inside(folder, clip.player), clip)
            for folder, clip in clips
            if clip.role == "method" and clip.player and (clip.prompt, clip.seed) == key
        ]
        outside |= {clip.player for path, clip in named if path is None}
        mine = [(path, clip) for path, clip in named if path is not None]
        there = [(path, clip) for path, clip in mine if path.is_file()]
        missing += len(mine) - len(there)
        bytes_ = sum(path.stat().st_size for path, _ in there)
        if not there and sum(not players for players in found.values()) >= MOST_SCENES:
            continue
        if (found and (count + len(there) > MOST or size + bytes_ > MOST_BYTES)) or bytes_ > 4 * MOST_BYTES:
            left += [path for path, _ in there]
            continue
        count, size = count + len(there), size + bytes_
        found[key] = [_player(path, clip, names) for path, clip in there]
    words = [f"In {left[0].parent} there are more: {counted(len(left), 'player')}." if left else ""]
    words.append(f"Outside of the run's folder and not read: {counted(len(outside), 'player')}." if outside else "")
    words.append(f"No longer where the run left them: {counted(missing, 'player')}." if missing else "")
    return found, " ".join(filter(None, words))


def _player(path: Path, clip: ClipRow, names: Mapping[tuple[str, str, str], str]) -> Player:
    name = names.get((clip.method, clip.settings, clip.engine), clip.method)
    known = [density for density in clip.densities if density is not None]
    note = f"density {number(sum(known) / len(known))}, by {clip.engine}" if known else ""
    alt = f"Full attention, {name}, and their difference: {clip.prompt}, seed {clip.seed}."
    return Player(name, note, f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}", alt)
