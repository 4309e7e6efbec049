"""Read VBench's results: one number for each clip, on one scale."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from attnbench.clips.vbench.dimensions import Dimension
from attnbench.clips.vbench.records import Score
from attnbench.clips.vbench.videos import Clip


def link_name(number: int) -> str:
    """Return the file name that VBench sees for clip ``number``."""
    return f"clip{number:05d}.mp4"


def skipped(dimension: Dimension, clips: Sequence[Clip], reason: str, stand_in: bool = False) -> tuple[Score, ...]:
    """Return a score without a value for every clip."""
    return tuple(Score(dimension.name, clip.name, None, "skipped", reason, stand_in) for clip in clips)


def read_scores(written: Path, dimension: Dimension, clips: Sequence[Clip], stand_in: bool) -> tuple[Score, ...]:
    """Return a score of every clip from VBench's ``*_eval_results.json``.

    Clips have the names that ``link_name`` gave them, in order. Truth values become 1 and 0. ``imaging_quality`` is
    divided by 100, as VBench does with its mean. A clip that VBench left out or scored as NaN is skipped.
    """
    try:
        _, rows = json.loads(written.read_text(encoding="utf-8"))[dimension.name]
        values = {Path(row["video_path"]).name: float(row["video_results"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return skipped(dimension, clips, f"VBench's result cannot be read: {type(error).__name__}: {error}", stand_in)
    scores = []
    for number, clip in enumerate(clips):
        value = values.get(link_name(number))
        if value is None or not math.isfinite(value):
            reason = "VBench left the clip out" if value is None else f"VBench gave {value}"
            scores.append(Score(dimension.name, clip.name, None, "skipped", reason, stand_in))
        else:
            scores.append(Score(dimension.name, clip.name, value * dimension.scale, "ok", stand_in=stand_in))
    return tuple(scores)
