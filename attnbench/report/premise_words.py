"""Verdicts on premises as a table of words, the same in a terminal, a document and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from attnbench.report.word_table import WordTable
from attnbench.report.words import NONE, listed, with_interval
from attnbench.results.records.analysis import PremiseRow

NOT_REAL = {
    "mini": "The mini model is a small model trained on drawn shapes. It is not Wan.",
    "video": "These q, k and v are modelled on a video. They are not those of Wan or any other model.",
    "gaussian": "These q, k and v are random numbers. They are not those of Wan or any other model.",
}
"""What a page says of those who are not the models that premises are about."""
HOW_REAL = "attnbench capture on real weights, and attnbench analyze on the capture, give the same page for them."
HEADER = ("premise", "verdict", "figure", "95 % interval", "holds", "does not", "what was computed")


def premise_words(rows: Sequence[PremiseRow]) -> WordTable:
    """Return a line for each premise: its verdict, the figure with its interval, and both bounds."""
    lines = []
    for row in rows:
        value, ends = (NONE, "") if row.value is None else with_interval(row.value, row.lo, row.hi)
        verdict = row.verdict if row.lo is not None or not row.reason else f"{row.verdict}: {row.reason}"
        lines.append((row.premise, verdict, value, ends or NONE, row.holds, row.fails, row.statistic))
    return WordTable(HEADER, tuple(lines), frozenset({2, 3, 4, 5}))


def tested_words(rows: Sequence[PremiseRow]) -> list[str]:
    """Return a sentence of what most premises were tested on, and one for each other thing that some were."""
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row.tested_on, []).append(row.premise)
    most, *others = sorted(names, key=lambda tested: len(names[tested]), reverse=True) or [""]
    found = [f"Tested on {most}."] if most else []
    return found + [
        f"{listed(names[tested])} {'were' if len(names[tested]) > 1 else 'was'} tested on {tested}."
        for tested in others
    ]


def caution(models: Sequence[str]) -> str:
    """Return what must be said of these models; empty if all of them are real ones."""
    words = [NOT_REAL[name] for name in dict.fromkeys(models) if name in NOT_REAL]
    return " ".join([*words, HOW_REAL]) if words else ""
