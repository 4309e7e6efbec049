"""The sections of the report about clips: what was made, players, curves, and every gap with its floors."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.report.charts.clips import curve_figure, curve_words, gap_figure, gap_words
from attnbench.report.charts.latency import svg_uri
from attnbench.report.charts.picture import Picture
from attnbench.report.gap_words import (
    counted,
    ends_words,
    floor_of,
    mean_words,
    metric_words,
    names_of,
    skipped_words,
)
from attnbench.report.html.clips_players import Player, players_of
from attnbench.report.words import short_settings
from attnbench.results.gaps import Gap, gaps
from attnbench.results.intervals import wilson
from attnbench.results.records.cells import Environment
from attnbench.results.records.clips import ClipRow, QualityRow

CURVE = "psnr"
"""The metric that is drawn frame by frame and named first."""

_CHARTS = (CURVE, "ssim", "ms_ssim", "lpips", "effnet_lite0_perceptual", "vmaf")
_MOST_CHARTS = 3

Clips = Sequence[tuple[Path, ClipRow]]
Name = tuple[str, str, str]
"""Method, settings, engine."""


@dataclass(frozen=True)
class Scene:
    """A prompt and seed: a player for each method, and the curve of all."""

    title: str
    players: list[Player]
    curve: Picture | None


@dataclass(frozen=True)
class GapLine:
    """A line of the table of gaps; each cell has a text and a small note."""

    name: str
    settings: str
    metric: str
    cells: list[tuple[str, str]]
    judgement: str
    sentence: str


@dataclass(frozen=True)
class Shares:
    """How many clips show what was asked for: a metric and, for each method, the share with its interval."""

    metric: str
    lines: list[tuple[str, str, str]]


@dataclass(frozen=True)
class ClipsSection:
    """The clips of one run and model."""

    title: str
    finding: list[str]
    facts: list[tuple[str, str]]
    scenes: list[Scene]
    left_out: str
    charts: list[Picture]
    lines: list[GapLine]
    shares: list[Shares]
    skipped: list[str]
    failed: list[str]


def clips_sections(
    rows: Sequence[QualityRow], clips: Clips, environments: Mapping[str, Environment]
) -> list[ClipsSection]:
    """Return a section for each run and model that made clips, in order of appearance.

    If sections have the same model and methods, their titles name the settings that differ, or else the run.
    """
    by_key: dict[tuple[str, str], list[QualityRow]] = {}
    for row in rows:
        by_key.setdefault((row.run_id, row.model), []).append(row)
    sections = []
    for (run, model), mine in by_key.items():
        made = [(folder, clip) for folder, clip in clips if (clip.run_id, clip.model) == (run, model)]
        title = _title(mine)
        if alike := [other for other in by_key.values() if other is not mine and _title(other) == title]:
            told = names_of([row for other in (mine, *alike) for row in other if row.role == "method"])
            title = _title(mine, told)
            if any(_title(other, told) == title for other in alike):
                title += f", run {run}"
        sections.append(_section(title, mine, made, environments.get(run)))
    return sections


def _title(rows: Sequence[QualityRow], names: Mapping[tuple[str, str, str], str] | None = None) -> str:
    """Return the title of a section: its methods, or with ``names`` what distinguishes them."""
    methods = [row for row in rows if row.role == "method"]
    words = dict.fromkeys(names[row.method, row.settings, row.engine] if names else row.method for row in methods)
    return f"Clips of {rows[0].model}: {', '.join(words) or 'full attention'}"


def _section(title: str, rows: list[QualityRow], clips: Clips, environment: Environment | None) -> ClipsSection:
    found = gaps(rows)
    names = names_of([row for row in rows if row.role == "method"])
    scenes, left_out = _scenes(rows, clips, names)
    return ClipsSection(
        title=title,
        finding=_finding(found),
        facts=_facts(rows, clips, environment),
        scenes=scenes,
        left_out=left_out,
        charts=_charts(found),
        lines=[_line(gap, names, place and found[place - 1]) for place, gap in enumerate(found)],
        shares=_shares(rows, names),
        skipped=skipped_words(rows),
        failed=[
            f"{clip.method}, {clip.prompt}, seed {clip.seed}: {clip.reason}"
            for _, clip in clips
            if clip.status == "failed"
        ],
    )


def _finding(found: Sequence[Gap]) -> list[str]:
    """Return what the first metric says about each method. Scores are used if there is no distance."""
    leading = [gap for gap in found if gap.metric == CURVE] or [gap for gap in found if gap.kind == "distance"]
    chosen = leading or list(found)
    if not chosen:
        return ["No metric has a value."]
    return [f"{gap.sentence}." for gap in chosen if gap.metric == chosen[0].metric]


def _facts(rows: Sequence[QualityRow], clips: Clips, environment: Environment | None) -> list[tuple[str, str]]:
    first = rows[0]
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    seeds = sorted({row.seed for row in rows if row.role in ("method", "exact")})
    facts = [
        ("Model", first.model),
        ("Clips", f"{counted(first.frames, 'frame')} of {first.size.replace('x', ' × ')}, {first.fps:g} a second"),
        ("Prompts", prompts[0] if len(prompts) == 1 else f"{len(prompts)}, such as “{prompts[0]}”"),
        ("Seeds", ", ".join(map(str, seeds)) if len(seeds) < 9 else f"{len(seeds)}: {seeds[0]} to {seeds[-1]}"),
    ]
    run = [clip for _, clip in clips if clip.role == "method"] or [clip for _, clip in clips]
    if run:
        clip = run[0]
        layers = f"; layers {', '.join(map(str, clip.dense_layers))} always" if clip.dense_layers else ""
        facts += [
            ("Denoising steps", f"{clip.steps}{_dense(clip.dense_steps)}{layers}"),
            ("Number format", clip.dtype),
            ("Weights", clip.weights),
        ]
    exact = next((row.engine for row in rows if row.role == "exact"), None) or next(
        (clip.engine for _, clip in clips if clip.role == "exact"), None
    )
    floor = next((row.engine for row in rows if row.role == "kernel-floor"), None)
    facts += [
        ("Full attention", exact or ""),
        ("Kernel floor", floor or "none"),
        ("Device", environment.device if environment else ""),
        ("Run", first.run_id),
    ]
    return [(name, value) for name, value in facts if value]


def _dense(steps: int) -> str:
    if steps == 0:
        return ", none of them dense"
    return f", of which the first {'is' if steps == 1 else f'{steps} are'} dense"


def _scenes(rows: Sequence[QualityRow], clips: Clips, names: Mapping[Name, str]) -> tuple[list[Scene], str]:
    keys = list(dict.fromkeys((row.prompt, row.seed) for row in rows if row.role == "method"))
    players, left_out = players_of(clips, keys, names)
    scenes = [
        Scene(f"{prompt}, seed {seed}", players[prompt, seed], _curve(rows, prompt, seed, names))
        for prompt, seed in keys
        if (prompt, seed) in players
    ]
    return scenes, left_out


def _curve(rows: Sequence[QualityRow], prompt: str, seed: int, names: Mapping[Name, str]) -> Picture | None:
    mine = [row for row in rows if row.metric == CURVE and row.prompt == prompt and row.per_frame]
    lines = [
        (names[row.method, row.settings, row.engine], row) for row in mine if row.role == "method" and row.seed == seed
    ]
    if not lines:
        return None
    lines += [(f"another kernel: {row.engine}", row) for row in mine if row.role == "kernel-floor" and row.seed == seed]
    other = [row for row in mine if row.role == "seed-floor" and seed in (row.seed, row.reference_seed)]
    lines += [(f"another seed: {row.seed if row.seed != seed else row.reference_seed}", row) for row in other[:1]]
    caption = "PSNR of each frame against full attention's. 100 dB: equal in every pixel."
    return Picture(svg_uri(curve_figure(lines)), curve_words(lines), caption)


def _charts(found: Sequence[Gap]) -> list[Picture]:
    charts: list[Picture] = []
    for metric in _CHARTS:
        mine = [gap for gap in found if gap.metric == metric]
        if mine and len(charts) < _MOST_CHARTS:
            caption = f"{metric}: mean of {counted(mine[0].gap.pairs, 'pair')} of clips, with both noise floors."
            charts.append(Picture(svg_uri(gap_figure(mine)), gap_words(mine), caption))
    return charts


def _line(gap: Gap, names: Mapping[Name, str], before: Gap | int) -> GapLine:
    signed = gap.kind == "score"
    key = (gap.method, gap.settings, gap.engine)
    again = isinstance(before, Gap) and (before.method, before.settings, before.engine) == key
    parts = [
        (gap.gap, signed),
        (floor_of(gap.kernel_floor, gap.kind), signed),
        (floor_of(gap.seed_floor, gap.kind), signed),
        (gap.beyond_kernel, True),
    ]
    cells = [(mean_words(part, signed=sign), ends_words(part, signed=sign)) for part, sign in parts]
    pairs = str(gap.gap.pairs)
    return GapLine(
        name="" if again else names[key],
        settings="" if again else short_settings(gap.settings, 120),
        metric=metric_words(gap),
        cells=[*cells, (pairs, f"{gap.without_value} without" if gap.without_value else "")],
        judgement=gap.judgement,
        sentence=gap.sentence,
    )


def _shares(rows: Sequence[QualityRow], names: Mapping[Name, str]) -> list[Shares]:
    """Return how many clips of each method have 1, for scores that are 1 or 0."""
    found = []
    for metric in dict.fromkeys(row.metric for row in rows if row.metric.endswith("_accuracy")):
        lines: dict[str, list[float]] = {}
        for role, row in itertools.product(("exact", "kernel-floor", "method"), rows):
            if row.metric == metric and row.value is not None and row.role == role:
                name = names.get((row.method, row.settings, row.engine)) if row.role == "method" else None
                lines.setdefault(name or f"{row.method} ({row.engine})", []).append(row.value)
        shown = []
        for name, values in lines.items():
            low, high = wilson(round(sum(values)), len(values))
            shown.append((name, f"{round(sum(values))} of {len(values)}", f"[{low:.0%}, {high:.0%}]"))
        if shown:
            found.append(Shares(metric, shown))
    return found
