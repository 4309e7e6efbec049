"""What attention looked like, as figures and words: of each run of ``attnbench analyze``."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from attnbench.report.data.figure import Axis, Figure, Heat, Point, Series, Strip
from attnbench.report.data.table import Column, Table
from attnbench.report.premise_words import caution, premise_words, tested_words
from attnbench.report.word_table import WordTable
from attnbench.report.words import listed, number
from attnbench.results.premises import judge
from attnbench.results.records.analysis import AnalysisRow, PremiseRow

Key = TypeVar("Key")

SECTION = "analysis"
CLASSES = ("temporal", "spatial", "local", "global")
NOT_ENDED = "This run did not come to its end: it judged no premise, and what is shown is of its first part."
MOST_LINES = 8
"""Layers of which each has a line of its own in a figure."""


@dataclass(frozen=True)
class AnalysisStory:
    """A run in words: its heading, what was tested on, what to be careful about, and the verdicts."""

    title: str
    sentences: tuple[str, ...]
    claims: tuple[tuple[str, str], ...]
    table: WordTable


def analysis_stories(rows: Sequence[AnalysisRow], premises: Sequence[PremiseRow]) -> list[AnalysisStory]:
    """Return each run in words, with the verdicts by the statistics and bounds of today."""
    ended = {row.run_id for row in premises}
    stories = []
    for run, own in _by(rows, lambda row: row.run_id).items():
        judged = judge(own, run) if run in ended else []
        first = own[0]
        counts = Counter(row.verdict for row in judged)
        told = listed([f"{n} {'hold' if n > 1 else 'holds'}" if word == "holds" else f"{n} {_plural(word, n)}"
                       for word, n in counts.items()])  # fmt: skip
        sentences = (
            f"Of {len(judged)} premises, {told}." if judged else NOT_ENDED, *tested_words(judged),
            caution([row.model for row in own]),
        )  # fmt: skip
        stories.append(
            AnalysisStory(
                f"Attention of {first.model}, {first.grid.replace('x', '×')} tokens", tuple(filter(None, sentences)),
                tuple((row.premise, f"{row.claim} ({row.sources})") for row in judged), premise_words(judged),
            )
        )  # fmt: skip
    return stories


def _plural(verdict: str, count: int) -> str:
    if verdict == "does not hold":
        return "do not hold" if count > 1 else verdict
    return f"{'are' if count > 1 else 'is'} {verdict}"


def premises_table(premises: Sequence[PremiseRow]) -> Table:
    """Return the verdicts with everything that they rest on."""
    names = list(PremiseRow.model_fields)
    columns = tuple(Column(name, PremiseRow.model_fields[name].description or "") for name in names)
    rows = tuple(tuple(getattr(row, name) for name in names) for row in premises)
    return Table("premises", "Premises", columns, rows)


def analysis_figures(rows: Sequence[AnalysisRow]) -> list[Figure]:
    """Return the figures of each run."""
    runs = _by([row for row in rows if row.value is not None and not row.method], lambda row: row.run_id)
    named = len(runs) > 1
    found: list[Figure] = []
    for place, (run, own) in enumerate(runs.items()):
        which = f", {own[0].model} {run}" if named else ""
        for figure in (each for make in _MAKERS for each in make(own, f"{SECTION}-{place}")):
            found.append(replace(figure, option=f"{figure.title}{which}"))
    return found


def _entropy(rows: Sequence[AnalysisRow], name: str) -> Iterator[Figure]:
    own = [row for row in rows if row.measure == "entropy_normalised"]
    cells = _by(own, lambda row: (row.layer or 0, row.step or 0))
    if not cells:
        return
    mean = {at: _mean(each) for at, each in sorted(cells.items())}
    low, high = min(mean.values()), max(mean.values())
    yield Figure(
        f"{name}-entropy", SECTION, "heat", "Entropy by layer and step",
        "Over the logarithm of the tokens, mean over heads and queries: 0 is weight on one key, 1 on all alike.",
        f"From {number(low)} to {number(high)}.", Axis("entropy / ln N", least=0.0, most=1.0),
        cells=tuple(Heat(f"layer {layer}", f"step {step}", value) for (layer, step), value in mean.items()),
    )  # fmt: skip


def _classes(rows: Sequence[AnalysisRow], name: str) -> Iterator[Figure]:
    by_layer = _by([row for row in rows if row.measure == "class_margin"], lambda row: row.layer or 0)
    if not by_layer:
        return
    shares = {
        layer: tuple(sum(row.label == word for row in own) / len(own) for word in CLASSES)
        for layer, own in sorted(by_layer.items())
    }
    every = Counter(row.label for own in by_layer.values() for row in own)
    total = sum(every.values())
    words = listed([f"{number(every[word] / total)} {word}" for word in CLASSES if every[word]])
    yield Figure(
        f"{name}-classes", SECTION, "heat", "What heads look at",
        "Share of the heads and steps of a layer: temporal looks at its place in all frames, spatial at its frame, "
        "local at its 3-D block, global at none of them twice as much as at other tokens.",
        f"Of all heads and steps {words}.", Axis("share of heads", least=0.0, most=1.0),
        strips=tuple(Strip(f"layer {layer}", values) for layer, values in shares.items()), places=CLASSES,
    )  # fmt: skip


def _distances(rows: Sequence[AnalysisRow], name: str) -> Iterator[Figure]:
    own = [row for row in rows if row.measure == "frame_mass" and row.points]
    if not own:
        return
    curves = {
        layer: [statistics.fmean(column) for column in zip(*(row.points for row in each), strict=True)]
        for layer, each in sorted(_by(own, lambda row: row.layer or 0).items())
    }
    chosen = _spread(list(curves))
    near = statistics.fmean(curve[0] for curve in curves.values())
    yield Figure(
        f"{name}-distance", SECTION, "xy", "Weight by distance in frames",
        "Mean over heads, steps and queries. There are fewer keys at large distances than at small ones.",
        f"{number(near)} of the weight stays in the query's own frame, mean over layers.",
        Axis("frames between query and key"), Axis("share of the weight", least=0.0),
        series=tuple(
            Series(f"layer {layer}", tuple(Point(float(t), y) for t, y in enumerate(curves[layer])), look="line")
            for layer in chosen
        ),
    )  # fmt: skip


def _concentration(rows: Sequence[AnalysisRow], name: str) -> Iterator[Figure]:
    series = []
    for share in (50, 90):
        own = sorted(row.value or 0.0 for row in rows if row.measure == f"pairs_needed_{share}_3d")
        if own:
            points = tuple(Point((place + 0.5) / len(own), value) for place, value in _thinned(own))
            series.append(Series(f"{share} % of the weight", points, look="line"))
    if series:
        middle = [each.points[len(each.points) // 2].y for each in series]
        told = listed([f"{each.name} in {number(y)}" for each, y in zip(series, middle, strict=True)])
        yield Figure(
            f"{name}-pairs", SECTION, "xy", "How few pairs hold the weight",
            "Heads in all layers and steps, from the most concentrated on. Pairs are those of a query and a 3-D block.",
            f"Half of the heads hold {told} of the pairs or fewer.",
            Axis("share of heads", least=0.0, most=1.0), Axis("share of pairs", least=0.0, most=1.0),
            series=tuple(series),
        )  # fmt: skip


def _importance(rows: Sequence[AnalysisRow], name: str) -> Iterator[Figure]:
    own = [row for row in rows if row.measure == "importance_gini_3d" and row.points]
    if not own:
        return
    _, width = (int(part.partition("=")[2]) for part in own[0].shape.split(","))
    mean = [statistics.fmean(column) for column in zip(*(row.points for row in own), strict=True)]
    lines = [tuple(mean[start : start + width]) for start in range(0, len(mean), width)]
    gini = statistics.median(row.value or 0.0 for row in own)
    yield Figure(
        f"{name}-importance", SECTION, "heat", "Which queries ask for most",
        "Similarity of queries to the quarter of the blocks that they like best, over the mean; mean over frames, "
        "heads, layers and steps.",
        f"From {number(min(mean))} to {number(max(mean))} of the mean; the median Gini coefficient of a head is "
        f"{number(gini)}.",
        Axis("over the mean"), strips=tuple(Strip(f"rows {place + 1}", line) for place, line in enumerate(lines)),
        places=tuple(f"columns {place + 1}" for place in range(width)),
    )  # fmt: skip


def _change(rows: Sequence[AnalysisRow], name: str) -> Iterator[Figure]:
    own = _by(
        [row for row in rows if row.measure == "block_mass_correlation" and row.step is not None],
        lambda row: row.layer or 0,
    )
    if not own:
        return
    series = []
    for layer in _spread(sorted(own)):
        by_step = _by(own[layer], lambda row: row.step or 0)
        points = tuple(Point(float(step), _mean(each)) for step, each in sorted(by_step.items()))
        series.append(Series(f"layer {layer}", points, look="line"))
    least = min(point.y for each in series for point in each.points)
    yield Figure(
        f"{name}-change", SECTION, "xy", "How much of a map stays from step to step",
        "Correlation of the weights between 3-D blocks with those of the step before, mean over heads.",
        f"At least {number(least)} in the layers that are shown.", Axis("step"),
        Axis("correlation", better="", most=1.0), series=tuple(series),
    )  # fmt: skip


_MAKERS: tuple[Callable[[Sequence[AnalysisRow], str], Iterable[Figure]], ...] = (
    _entropy, _classes, _distances, _concentration, _importance, _change,
)  # fmt: skip


def _by(rows: Sequence[AnalysisRow], key: Callable[[AnalysisRow], Key]) -> dict[Key, list[AnalysisRow]]:
    found: dict[Key, list[AnalysisRow]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _mean(rows: Sequence[AnalysisRow]) -> float:
    return statistics.fmean(row.value or 0.0 for row in rows)


def _spread(layers: Sequence[int]) -> list[int]:
    """Return at most ``MOST_LINES`` layers, evenly spread."""
    if len(layers) <= MOST_LINES:
        return list(layers)
    return [layers[round(place * (len(layers) - 1) / (MOST_LINES - 1))] for place in range(MOST_LINES)]


def _thinned(values: Sequence[float], most: int = 100) -> list[tuple[int, float]]:
    """Return at most so many values with their places."""
    step = max(1, len(values) // most)
    return list(enumerate(values))[::step]
