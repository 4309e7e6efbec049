"""Whether what methods assume of attention holds: committed statistics and bounds, judged on the rows of a run."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from attnbench.results.bootstrap import MIN_BOOTSTRAP, TAIL, generator_of, picks
from attnbench.results.records.analysis import AnalysisRow, PremiseRow, PremiseVerdict

Floats = npt.NDArray[np.float64]
_SEED = 20242


@dataclass(frozen=True, slots=True)
class Statistic:
    """How the values of heads become a figure.

    Attributes:
        words: what it is; {} stands for the measures.
        compute: from values [..., measures, heads] to figures [...].
    """

    words: str
    compute: Callable[[Floats], Floats]


STATISTICS = {
    "median": Statistic("median of {}", lambda x: np.median(x[..., 0, :], axis=-1)),
    "median-of-largest": Statistic("median of the largest of {}", lambda x: np.median(x.max(axis=-2), axis=-1)),
    "median-difference": Statistic(
        "median of the first less the second of {}",
        lambda x: np.median(x[..., 0, :] - x[..., 1, :], axis=-1),
    ),
    "decile-ratio": Statistic(
        "ninth decile of {} over the first",
        lambda x: _decile(x, 0.9) / np.maximum(_decile(x, 0.1), 1e-12),
    ),
    "decile-range": Statistic("ninth decile of {} less the first", lambda x: _decile(x, 0.9) - _decile(x, 0.1)),
}
"""The statistics of premises, by name."""


def _decile(values: Floats, share: float) -> Floats:
    found: Floats = np.quantile(values[..., 0, :], share, axis=-1)
    return found


@dataclass(frozen=True, slots=True)
class Premise:
    """A premise and how it is tested; see premises.toml.

    Attributes:
        name: a word.
        claim: what is assumed.
        sources: who assumes it.
        measures: that the statistic needs.
        statistic: a name of STATISTICS.
        holds, fails: bounds of the figure. Which way is which is told by the larger of the two.
    """

    name: str
    claim: str
    sources: str
    measures: tuple[str, ...]
    statistic: str
    holds: float
    fails: float

    @property
    def rises(self) -> bool:
        """Whether a larger figure speaks for the premise."""
        return self.holds > self.fails

    def verdict(self, lo: float, hi: float) -> PremiseVerdict:
        """Return what an interval says."""
        if lo >= self.holds if self.rises else hi <= self.holds:
            return "holds"
        return "does not hold" if (hi <= self.fails if self.rises else lo >= self.fails) else "undecided"


@cache
def premises() -> tuple[Premise, ...]:
    """Return the committed premises, in order."""
    text = (files("attnbench.analysis") / "premises.toml").read_text("utf-8")
    found = tomllib.loads(text)["premise"]
    return tuple(Premise(**{**each, "measures": tuple(each["measures"])}) for each in found)


def judge(rows: Sequence[AnalysisRow], run_id: str) -> list[PremiseRow]:
    """Return a verdict on every premise from the rows of a run."""
    return [judge_one(premise, rows, run_id) for premise in premises()]


def judge_one(premise: Premise, rows: Sequence[AnalysisRow], run_id: str) -> PremiseRow:
    """Return the verdict on a premise.

    Heads of all layers are the sample: the interval is the percentile bootstrap over them, each with the mean over its
    steps, methods and densities. Below six heads there is none, and no verdict.
    """
    rise, fall = ("≥", "≤") if premise.rises else ("≤", "≥")
    statistic = STATISTICS[premise.statistic]
    own = [row for row in rows if row.measure in premise.measures and row.value is not None and row.head is not None]
    values, heads = _by_head(own, premise.measures)
    fields: dict[str, Any] = {
        "run_id": run_id, "premise": premise.name, "claim": premise.claim, "sources": premise.sources,
        "statistic": statistic.words.format(", ".join(premise.measures)),
        "holds": f"{rise} {premise.holds:g}", "fails": f"{fall} {premise.fails:g}",
        "tested_on": _tested_on(own or rows),
    }  # fmt: skip
    if not heads:
        lost = [row.reason for row in rows if row.measure in premise.measures and row.status == "skipped"]
        reason = lost[0] if lost else f"nothing measured {premise.measures[0]}"
        return PremiseRow(**fields, verdict="undecided", reason=reason)
    value = float(statistic.compute(values))
    if heads < MIN_BOOTSTRAP:
        reason = f"{heads} head{'s are' if heads > 1 else ' is'} too few for an interval: {MIN_BOOTSTRAP} are needed"
        return PremiseRow(**fields, verdict="undecided", value=value, reason=reason)
    drawn = picks(heads, generator_of(_SEED))
    figures = statistic.compute(np.moveaxis(values[:, drawn], 0, -2))
    lo, hi = (float(end) for end in np.quantile(figures, (TAIL, 1 - TAIL)))
    verdict = premise.verdict(lo, hi)
    reason = "" if verdict != "undecided" else "the interval is not beyond one of the bounds"
    return PremiseRow(**fields, verdict=verdict, value=_short(value), lo=_short(lo), hi=_short(hi), reason=reason)


def _by_head(rows: Sequence[AnalysisRow], measures: Sequence[str]) -> tuple[Floats, int]:
    """Return the mean of each measure of each head that has all of them, [measures, heads], and the number of heads.

    It is over steps, and over the methods and densities that it was measured for: what is said of one head several
    times is no larger sample of heads.
    """
    found: dict[tuple[str, int | None, int | None, str], dict[str, list[float]]] = {}
    for row in rows:
        unit = (row.model, row.layer, row.head, row.grid)
        found.setdefault(unit, {}).setdefault(row.measure, []).append(row.value or 0.0)
    whole = [by for by in found.values() if len(by) == len(measures)]
    return np.array([[float(np.mean(by[name])) for by in whole] for name in measures], dtype=np.float64), len(whole)


def _tested_on(rows: Sequence[AnalysisRow]) -> str:
    if not rows:
        return "nothing"
    models = ", ".join(dict.fromkeys(row.model for row in rows))
    heads = {(row.layer, row.head) for row in rows if row.head is not None}
    counts = {
        "layer": len({row.layer for row in rows}), "head": len(heads),
        "step": len({row.step for row in rows if row.step is not None}), "prompt": max(row.prompts for row in rows),
    }  # fmt: skip
    words = [f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count]
    queries = {(row.queries, row.tokens) for row in rows if row.queries}
    words += [f"{n:,} of {tokens:,} queries" for n, tokens in sorted(queries)[:1]]
    methods = ", ".join(dict.fromkeys(row.method for row in rows if row.method))
    return f"{models}: {', '.join(words)}" + (f"; {methods}" if methods else "")


def _short(value: float) -> float:
    return float(f"{value:.4g}")
