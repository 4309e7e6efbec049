"""What methods did to clips, as figures: each metric beside its noise floors, and PSNR over the frames of a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attnbench.report.data.figure import Axis, Bar, Figure, Point, Series
from attnbench.report.gap_words import counted, names_of, value_words
from attnbench.report.words import file_name
from attnbench.results.gaps import Gap
from attnbench.results.records.clips import QualityRow

CURVE = "psnr"
"""The metric that is drawn frame by frame."""

CHARTS = (CURVE, "ssim", "ms_ssim", "lpips", "effnet_lite0_perceptual", "vmaf")
MOST_SCENES = 6
"""Prompts and seeds that are drawn frame by frame, a run."""

Name = tuple[str, str, str]


def gap_figures(gaps: Sequence[Gap]) -> list[Figure]:
    """Return a figure a model and metric: every method's mean, and what another kernel and another seed give."""
    names = names_of(gaps)
    found = []
    for model in dict.fromkeys(gap.model for gap in gaps):
        for metric in CHARTS:
            mine = [gap for gap in gaps if (gap.model, gap.metric) == (model, metric)]
            if mine:
                found.append(_gap_figure(model, metric, mine, names))
    return found


def frame_figures(rows: Sequence[QualityRow]) -> list[Figure]:
    """Return PSNR over the frames of clips, a figure a run, prompt and seed: the first ones of each run."""
    by_run: dict[str, list[QualityRow]] = {}
    for row in rows:
        if row.metric == CURVE and len(row.per_frame) > 1:
            by_run.setdefault(row.run_id, []).append(row)
    found = []
    for run, mine in by_run.items():
        names = names_of([row for row in mine if row.role == "method"])
        keys = list(dict.fromkeys((row.prompt, row.seed) for row in mine if row.role == "method"))
        for prompt, seed in keys[:MOST_SCENES]:
            series = _frames(mine, prompt, seed, names)
            found.append(
                Figure(
                    file_name("clips-psnr", prompt, f"seed-{seed}", run), "clips", "xy",
                    "PSNR over the frames of a clip",
                    "Against full attention's clip of the same prompt and seed. 100 dB: equal in every pixel.",
                    "; ".join(f"{each.name} from {value_words(each.points[0].y)} to {value_words(each.points[-1].y)} dB"
                              for each in series) + ".",
                    Axis("frame"), Axis("PSNR, dB", better="higher"), series=tuple(series),
                    option=f"{prompt}, seed {seed} · run {run}",
                )
            )  # fmt: skip
    return found


def _gap_figure(model: str, metric: str, gaps: Sequence[Gap], names: Mapping[Name, str]) -> Figure:
    bars, named = [], [names[gap.method, gap.settings, gap.engine] for gap in gaps]
    for gap in sorted(gaps, key=lambda each: each.gap.mean, reverse=gaps[0].better == "higher"):
        name = names[gap.method, gap.settings, gap.engine]
        name += f" · run {gap.run_id}" if named.count(name) > 1 else ""
        told = f"{value_words(gap.gap.mean)} {gap.unit}: {gap.judgement}".strip()
        bars.append(Bar(name, gap.method, 0.0, gap.gap.mean, gap.gap.lo, gap.gap.hi, label=told))
    first = gaps[0]
    for name, floor in (("another exact kernel", first.kernel_floor), ("another seed", first.seed_floor)):
        if floor is not None:
            told = f"{value_words(floor.mean)} {first.unit}".strip()
            bars.append(Bar(name, "floor", 0.0, floor.mean, floor.lo, floor.hi, "floor", told))
    unit = f", {first.unit}" if first.unit else ""
    return Figure(
        file_name("quality", model, metric), "quality", "bars", f"{metric} of {model}'s clips against full attention's",
        f"Mean of {counted(first.gap.pairs, 'pair')} of clips with its interval. Hatched: where mere noise lies.",
        " ".join(f"{gap.sentence}." for gap in gaps[:12]),
        Axis(f"{metric}{unit}", better=first.better),
        bars=tuple(bars), option=metric,
    )  # fmt: skip


def _frames(rows: Sequence[QualityRow], prompt: str, seed: int, names: Mapping[Name, str]) -> list[Series]:
    mine = [row for row in rows if row.prompt == prompt]
    found = [
        _series(names[row.method, row.settings, row.engine], row, row.method)
        for row in mine
        if row.role == "method" and row.seed == seed
    ]
    found += [
        _series(f"another kernel: {row.engine}", row) for row in mine if row.role == "kernel-floor" and row.seed == seed
    ]
    other = [row for row in mine if row.role == "seed-floor" and seed in (row.seed, row.reference_seed)]
    found += [
        _series(f"another seed: {row.seed if row.seed != seed else row.reference_seed}", row) for row in other[:1]
    ]
    return found


def _series(name: str, row: QualityRow, method: str = "") -> Series:
    points = tuple(Point(place, value) for place, value in enumerate(row.per_frame, 1))
    return Series(name, points, method, "line" if method else "guide", dashed=not method)
