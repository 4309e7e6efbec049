"""Whether what methods assume of attention holds: committed statistics and bounds, judged on the rows of a run."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from attnbench.results.bootstrap import MIN_BOOTSTRAP, TAIL, generator_of, picks
from attnbench.results.records.analysis import AnalysisRow, PremiseRow, PremiseVerdict

Floats = npt.NDArray[np.float64]
_SEED = 20242
_OVER = {"head": "", "layer": ", over layers"}


@dataclass(frozen=True, slots=True)
class Statistic:
    """How the values of heads become a figure.

    Attributes:
        words: what it is; {} stands for the measures.
        compute: from values [..., measures, units] to figures [...].
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
        unit: what the figure is over, heads or layers.
    """

    name: str
    claim: str
    sources: str
    measures: tuple[str, ...]
    statistic: str
    holds: float
    fails: float
    unit: Literal["head", "layer"] = "head"

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
    text = (files("attnbench.results") / "premises.toml").read_text("utf-8")
    found = tomllib.loads(text)["premise"]
    return tuple(Premise(**{**each, "measures": tuple(each["measures"])}) for each in found)


def judge(rows: Sequence[AnalysisRow], run_id: str) -> list[PremiseRow]:
    """Return a verdict on every premise from the rows of a run."""
    return [judge_one(premise, rows, run_id) for premise in premises()]


def judge_one(premise: Premise, rows: Sequence[AnalysisRow], run_id: str) -> PremiseRow:
    """Return the verdict on a premise.

    Heads of all layers are the sample, or layers: the interval is the percentile bootstrap over them, each with the
    mean over its steps, methods and densities. Below six of them there is none, and no verdict.
    """
    rise, fall = ("≥", "≤") if premise.rises else ("≤", "≥")
    statistic = STATISTICS[premise.statistic]
    own = [row for row in rows if row.measure in premise.measures and row.value is not None and row.head is not None]
    values, units = _by_unit(own, premise.measures, premise.unit)
    fields: dict[str, Any] = {
        "run_id": run_id, "premise": premise.name, "claim": premise.claim, "sources": premise.sources,
        "statistic": statistic.words.format(", ".join(premise.measures)) + _OVER[premise.unit],
        "holds": f"{rise} {premise.holds:g}", "fails": f"{fall} {premise.fails:g}",
        "tested_on": _tested_on(own),
    }  # fmt: skip
    if not units:
        lost = [row.reason for row in rows if row.measure in premise.measures and row.status == "skipped"]
        reason = lost[-1] if lost else f"nothing measured {premise.measures[0]}"
        return PremiseRow(**fields, verdict="undecided", reason=reason)
    value = float(statistic.compute(values))
    if units < MIN_BOOTSTRAP:
        some = f"{units} {premise.unit}{'s are' if units > 1 else ' is'}"
        reason = f"{some} too few for an interval: {MIN_BOOTSTRAP} are needed"
        return PremiseRow(**fields, verdict="undecided", value=value, reason=reason)
    drawn = picks(units, generator_of(_SEED))
    figures = statistic.compute(np.moveaxis(values[:, drawn], 0, -2))
    lo, hi = (float(end) for end in np.quantile(figures, (TAIL, 1 - TAIL)))
    verdict = premise.verdict(lo, hi)
    reason = "" if verdict != "undecided" else "the interval is not beyond one of the bounds"
    return PremiseRow(**fields, verdict=verdict, value=_short(value), lo=_short(lo), hi=_short(hi), reason=reason)


def _by_unit(rows: Sequence[AnalysisRow], measures: Sequence[str], unit: str) -> tuple[Floats, int]:
    """Return the mean of each measure of each unit that has all of them, [measures, units], and the number of units.

    The mean of a head is over steps, and over the methods and densities that it was measured for: what is said of one
    head several times is no larger sample of heads. The mean of a layer is over its heads.
    """
    heads: dict[tuple[str, int | None, str, int | None], dict[str, list[float]]] = {}
    for row in rows:
        head = (row.model, row.layer, row.grid, row.head)
        heads.setdefault(head, {}).setdefault(row.measure, []).append(row.value or 0.0)
    units: dict[tuple[object, ...], list[list[float]]] = {}
    for head, by in heads.items():
        if len(by) == len(measures):
            means = [float(np.mean(by[name])) for name in measures]
            units.setdefault(head if unit == "head" else head[:3], []).append(means)
    found = [np.mean(each, axis=0) for each in units.values()]
    return np.array(found, dtype=np.float64).reshape(-1, len(measures)).T, len(found)


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
    densities = ", ".join(f"{density:g}" for density in sorted({row.budget for row in rows if row.budget is not None}))
    some = (f"{models}: {', '.join(words)}", methods, densities and f"density {densities}")
    return "; ".join(filter(None, some))


def _short(value: float) -> float:
    return float(f"{value:.4g}")
