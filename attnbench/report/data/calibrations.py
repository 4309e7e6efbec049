"""Calibrations: how often comparisons are wrong where nothing changed, and how often they find delays of known size."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.report.calibration_tables import noise_sentence
from attnbench.report.data.figure import Axis, Figure, Point, Series
from attnbench.report.data.table import Column, Table, Value
from attnbench.report.word_table import WordTable
from attnbench.report.words import NONE, file_name
from attnbench.results.find import NOISE, find_calibrations
from attnbench.results.noise import NoiseModel, read_noise

_FOUND = re.compile(r"found_(\d{1,3}(?:\.\d{1,9})?(?:e-?\d)?)")


@dataclass(frozen=True)
class FoundDelay:
    """How often comparisons called methods slower that were slower by ``delay``; ends of the 95 % interval if known."""

    delay: float
    share: float
    lo: float | None
    hi: float | None


@dataclass(frozen=True)
class CalibrationRead:
    """A finished calibration on disk: the name of its folder, and what it found."""

    name: str
    model: NoiseModel

    @property
    def false_alarms(self) -> float | None:
        """Share of methods that were called slower or faster where nothing changed."""
        return self._share("false_alarms")

    @property
    def covered(self) -> tuple[float | None, float | None, float | None]:
        """Share of the intervals that hold the truth, and its own interval."""
        return self._share("covered"), self._share("covered_lo"), self._share("covered_hi")

    @property
    def delays(self) -> list[FoundDelay]:
        """How often each delay was found, the smallest first."""
        found = []
        for name in self.model.details:
            matched, share = _FOUND.fullmatch(name), self._share(name)
            if matched and share is not None and float(matched[1]) > 0:
                ends = self._share(f"{name}_lo"), self._share(f"{name}_hi")
                found.append(FoundDelay(float(matched[1]), share, *ends))
        return sorted(found, key=lambda each: each.delay)

    def _share(self, name: str) -> float | None:
        value = self.model.details.get(name)
        return value if value is not None and 0 <= value <= 1 else None


@dataclass(frozen=True)
class CalibrationStory:
    """A calibration in words: its heading, its device, how much runs differ, and a table."""

    title: str
    device: str
    sentence: str
    table: WordTable


def read_calibrations(path: Path) -> list[CalibrationRead]:
    """Return the finished calibrations at or below a folder.

    Raises:
        BadInput: if the noise of one cannot be read.
    """
    return [CalibrationRead(each.resolve().name, read_noise(each / NOISE)) for each in find_calibrations(path)]


def calibration_table(found: Sequence[CalibrationRead]) -> Table:
    """Return a row for runs without a change, delay 0, and one for each delay, of every calibration."""
    columns = (
        Column("calibration", "its folder"),
        Column("device", "what was measured on"),
        Column("runs", "runs without a change"),
        Column("methods", "in each run"),
        Column("measured_at", "UTC, ISO 8601"),
        Column("speedup_sd", "standard deviation between runs of the log of the speed-up"),
        Column("latency_sd", "standard deviation between runs of the log of the latency"),
        Column("delay", "share that calls were made slower by; 0: nothing changed"),
        Column("called", "share of methods called slower; where nothing changed, slower or faster: false alarms"),
        Column("called_lo", "lower end of its 95 % interval"),
        Column("called_hi", "upper end of its 95 % interval"),
        Column("covered", "share of 95 % intervals that hold the truth, where nothing changed"),
        Column("covered_lo", "lower end of its 95 % interval"),
        Column("covered_hi", "upper end of its 95 % interval"),
    )
    rows: list[tuple[Value, ...]] = []
    for each in found:
        model = each.model
        lead = (each.name, model.device, model.runs, model.cells, model.measured_at, model.speedup_sd, model.latency_sd)
        rows.append((*lead, 0.0, each.false_alarms, None, None, *each.covered))
        rows += [(*lead, one.delay, one.share, one.lo, one.hi, None, None, None) for one in each.delays]
    return Table("calibration", "Calibration", columns, tuple(rows))


def calibration_figures(found: Sequence[CalibrationRead]) -> list[Figure]:
    """Return for each calibration that tried delays how often they were found."""
    return [_figure(each, len(found) > 1) for each in found if each.delays]


def calibration_stories(found: Sequence[CalibrationRead]) -> list[CalibrationStory]:
    """Return calibrations in words."""
    return [
        CalibrationStory(f"Calibration in {each.name}", each.model.device, noise_sentence(each.model), _words(each))
        for each in found
    ]


def _figure(found: CalibrationRead, named: bool) -> Figure:
    points = tuple(
        Point(
            100 * each.delay, 100 * each.share, None if each.lo is None else 100 * each.lo,
            None if each.hi is None else 100 * each.hi, f"slower by {100 * each.delay:g} %",
        )
        for each in found.delays
    )  # fmt: skip
    told = "; ".join(f"{100 * each.share:.3g} % of those slower by {100 * each.delay:g} %" for each in found.delays)
    return Figure(
        file_name("calibration", found.name), "calibration", "xy", "How often a delay is found",
        "Calls were made slower on purpose. A comparison of two runs at its defaults finds the delay if it calls the "
        "method slower.",
        f"Called slower: {told}.", Axis("delay, %", log=True),
        Axis("methods called slower, %", better="higher", least=0.0, most=100.0),
        series=(Series("methods called slower", points, look="line"),), option=found.name if named else "",
    )  # fmt: skip


def _words(found: CalibrationRead) -> WordTable:
    rows = [
        ("false alarms: methods called slower or faster where nothing changed", _percent(found.false_alarms), NONE),
        ("95 % intervals that hold the truth", _percent(found.covered[0]), _interval(*found.covered[1:])),
    ]
    rows += [
        (f"methods called slower that were slower by {100 * each.delay:g} %", _percent(each.share),
         _interval(each.lo, each.hi))
        for each in found.delays
    ]  # fmt: skip
    return WordTable(("what", "share", "95 % interval"), tuple(rows), frozenset({1, 2}))


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.3g} %"


def _interval(lo: float | None, hi: float | None) -> str:
    return NONE if lo is None or hi is None else f"{100 * lo:.1f} to {100 * hi:.1f} %"
