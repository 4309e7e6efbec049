"""Gaps of clips: a table for the terminal, a table that compares runs, and records for JSON."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.kernels.errors import BadInput
from attnbench.report.gap_words import LEGEND, estimate_words, floor_of, metric_words, names_of
from attnbench.report.word_table import WordTable
from attnbench.report.words import NONE
from attnbench.results.gaps import Gap, gaps
from attnbench.results.load import Results
from attnbench.results.means import Estimate
from attnbench.results.records.clips import ClipRow, QualityRow

if TYPE_CHECKING:
    from attnbench.report.terminal.fitted import Fitted


def gap_table(rows: Sequence[QualityRow]) -> Fitted:
    """Return for every method a line a metric with values: the judgement, the gap and both floors.

    A distance is that from full attention's clip of the same prompt and seed. A score is shown as the difference from
    that clip's score.
    """
    from rich.table import Table
    from rich.text import Text

    from attnbench.report.terminal.fitted import Fitted

    table = Table(header_style="bold", pad_edge=False, box=None, caption=Text(LEGEND), caption_justify="left")
    table.add_column("method and metric", overflow="fold")
    table.add_column("judgement", no_wrap=True)
    for name in ("gap", "another kernel", "another seed"):
        table.add_column(name, justify="right", no_wrap=True)
    found = gaps(rows)
    names = names_of(found)
    before = ""
    for gap in found:
        name = names[gap.method, gap.settings, gap.engine]
        parts = (gap.gap, floor_of(gap.kernel_floor, gap.kind), floor_of(gap.seed_floor, gap.kind))
        cells = [estimate_words(part, signed=gap.kind == "score") for part in parts]
        if name != before:
            table.add_row(Text(name, style="bold"))
            before = name
        table.add_row(*map(Text, (metric_words(gap), gap.judgement, *cells)))  # as Text: rich takes brackets for markup
    return Fitted(table, ("another seed", "another kernel"))


def gap_records(rows: Sequence[QualityRow]) -> list[dict[str, Any]]:
    """Return the gaps as plain records, each with its sentence."""
    return [{**dataclasses.asdict(gap), "sentence": gap.sentence} for gap in gaps(rows)]


Name = tuple[str, str, str]
"""Method, settings and engine."""


@dataclasses.dataclass(frozen=True)
class ClipRun:
    """What was read from one place: its name in messages, and the metrics and clips of its runs."""

    place: str
    rows: Sequence[QualityRow]
    clips: Sequence[ClipRow]


def clip_run(path: Path, results: Results) -> ClipRun:
    """Return the runs of clips among the results that were read from ``path``."""
    return ClipRun(str(path), results.quality, [clip for _, clip in results.clips])


def comparison_table(runs: Sequence[ClipRun]) -> WordTable:
    """Return one table of one or several runs of clips: a row for each method, then the two noise floors.

    For each method it has the density and, for each metric, the gap to full attention with its interval. The density is
    the mean over the clips, layers and steps in which the method ran. Several runs, such as those of one method with
    several settings, share a table if full attention's clips are identical bit for bit.

    Raises:
        BadInput: if a place holds no run of clips, several, or one without a value; if runs compare with other clips
            than the first does, or measured the same method with the same settings.
    """
    found, density = _gathered(runs)
    every = [gap for own in found.values() for gap in own.values()]
    names, metrics = names_of(every), list(dict.fromkeys(gap.metric for gap in every))
    of = {gap.metric: gap for gap in reversed(every)}
    rows = []
    for name, own in found.items():
        cells = [f"{_words(own[m], own[m].gap)}{_mark(own[m])}" if m in own else NONE for m in metrics]
        rows.append((names[name], f"{density[name]:.3f}" if name in density else NONE, *cells))
    for title, floor in (("another kernel", "kernel_floor"), ("another seed", "seed_floor")):
        cells = [_words(of[m], floor_of(getattr(of[m], floor), of[m].kind)) for m in metrics]
        rows.append((f"*{title}*", "1", *cells))
    header = ("method", "density", *(metric_words(of[metric]) for metric in metrics))
    return WordTable(header, tuple(rows), frozenset({1}))


def _gathered(runs: Sequence[ClipRun]) -> tuple[dict[Name, dict[str, Gap]], dict[Name, float]]:
    """Return the gap of each method and metric of the runs, and each method's density."""
    found: dict[Name, dict[str, Gap]] = {}
    density: dict[Name, float] = {}
    for run in runs:
        of_run = gaps(run.rows)
        if len({gap.run_id for gap in of_run}) != 1:
            raise BadInput(f"{run.place!r} must hold the values of one run of clips")
        if _exact_clips(run) != _exact_clips(runs[0]):
            raise BadInput(f"{run.place!r} must compare with the same clips of full attention as {runs[0].place!r}")
        by_name: dict[Name, dict[str, Gap]] = {}
        for gap in of_run:
            by_name.setdefault((gap.method, gap.settings, gap.engine), {})[gap.metric] = gap
        if twice := [" ".join(name) for name in by_name if name in found]:
            raise BadInput(f"{run.place!r} must hold another method or settings than the runs before, not {twice[0]!r}")
        found |= by_name
        density |= _densities(run.clips)
    return found, density


def _densities(clips: Sequence[ClipRow]) -> dict[Name, float]:
    """Return the mean density of each method's plans, over its clips and the layers where it ran."""
    found: dict[Name, list[float]] = {}
    for clip in clips:
        kept = [each for each in clip.densities if each is not None]
        if clip.role == "method" and kept:
            found.setdefault((clip.method, clip.settings, clip.engine), []).extend(kept)
    return {name: statistics.fmean(each) for name, each in found.items()}


def _exact_clips(run: ClipRun) -> dict[tuple[str, str, int], str]:
    """Return the digest of each clip of full attention, by role, prompt and seed."""
    return {(clip.role, clip.prompt, clip.seed): clip.clip_hash for clip in run.clips if clip.role != "method"}


def _words(gap: Gap, estimate: Estimate | None) -> str:
    return estimate_words(estimate, signed=gap.kind == "score")


def _mark(gap: Gap) -> str:
    """Return the remark on a gap that is not certain."""
    return "" if gap.judgement == "distinguishable" else f" ({gap.judgement})"
