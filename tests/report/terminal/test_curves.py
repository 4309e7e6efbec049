"""What is said of a curve, and what its picture holds."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pandas as pd
import pytest

from attnbench.methods.draw import svg_bytes
from attnbench.report.cases import cases_of
from attnbench.report.charts.curve import curve_figure
from attnbench.report.curve_words import label, notes, sentence, shown, wall_clock_sentence
from attnbench.report.judge import judge
from attnbench.report.terminal.curves import curve_table, records
from attnbench.results.break_even import curves
from attnbench.results.records.cells import Row, Sample

PowerLaw = Callable[..., pd.DataFrame]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "sta beats the dense baseline from 9,000 tokens on (95 % interval: 9,000 to 9,000); "
             "measured from 2,000 tokens to 32,000 tokens."),
        ({"power": -0.4}, "sta beats the dense baseline up to 9,000 tokens only (95 % interval: 9,000 to 9,000); "
                          "measured from 2,000 tokens to 32,000 tokens."),
        ({"samples": 3}, "sta beats the dense baseline from 9,000 tokens on (by the ends of the points' intervals: "
                         "9,000 to 9,000); measured from 2,000 tokens to 32,000 tokens."),
        ({"at": 1000.0}, "sta is faster than the dense baseline everywhere measured, from 2,000 tokens on."),
        ({"at": 99000.0}, "sta is slower than the dense baseline everywhere measured, up to 32,000 tokens."),
        ({"tokens": (4000,)}, "sta is slower than the dense baseline at 4,000 tokens, the only point."),
    ],
)  # fmt: skip
def test_a_sentence_for_each_outcome(changes: dict[str, object], said: str, power_law: PowerLaw) -> None:
    assert sentence(curves(power_law(**changes))[0], "tokens") == said


def test_several_crossings_an_empty_curve_and_density_have_their_sentences(power_law: PowerLaw) -> None:
    table = power_law(samples=1, tokens=(2000, 4000, 8000))
    table["samples_ms"] = [[dense * factor] for dense, factor in zip(table["baseline_ms"], (2, 0.5, 2), strict=True)]
    said = sentence(curves(table)[0], "tokens")
    assert said.startswith("sta has no one break-even: its speed-up passes 1 at 2,828 and 5,657 tokens")
    empty = power_law(tokens=(2000,)).assign(verdict="oom")
    assert sentence(curves(empty)[0], "tokens") == "sta: no point has a latency and a dense baseline."
    dense = power_law(power=-1.0)
    dense["density"], dense["grid"] = dense["tokens"] / 32000, "8x20x50"
    assert "below density 0.281" in sentence(curves(dense, "density")[0], "density")


def test_over_frames_a_place_is_told_in_frames_too(power_law: PowerLaw) -> None:
    (curve,) = curves(power_law())  # 20 x 50 tokens a frame: 9,000 tokens are 9 of them, 33 frames of video
    assert "from 9,000 tokens (33 frames) on (95 % interval: 33 to 33)" in sentence(curve, "frames")


def test_an_interval_that_holds_1_is_told(power_law: PowerLaw) -> None:
    table = power_law(at=1900.0, power=0.05, noise=0.05, tokens=(2000, 4000, 64000), seed=2)
    (curve,) = curves(table)
    assert curve.break_even.outcome == "faster"
    assert "; the interval holds 1 at 2,000" in sentence(curve, "tokens")


def slowed(table: pd.DataFrame, factors: tuple[tuple[float, ...], ...]) -> pd.DataFrame:
    """A table in which the method's samples are the dense baseline's median times these factors, a tuple a point."""
    table["samples_ms"] = [
        [dense * factor for factor in each] for dense, each in zip(table["baseline_ms"], factors, strict=True)
    ]
    return table


WIDE, FAST, SLOW = (0.46, 0.9, 1.25), (0.5, 0.5, 0.5), (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ((WIDE, WIDE, (0.8, 1.1, 1.3)), "sta is neither clearly faster nor clearly slower than the dense baseline: the "
         "interval holds 1 everywhere measured, from 2,000 tokens to 8,000 tokens."),
        ((WIDE, SLOW, SLOW), "sta is nowhere clearly faster than the dense baseline; the interval holds 1 at 2,000 "
         "tokens; measured from 2,000 tokens to 8,000 tokens."),
        ((FAST, (0.8, 1.1, 1.3), (0.8, 1.1, 1.3)), "sta is faster than the dense baseline at 2,000 tokens, and nowhere "
         "clearly slower; the interval holds 1 at 4,000 and 8,000 tokens; measured from 2,000 tokens to 8,000 tokens."),
    ],
)  # fmt: skip
def test_a_point_whose_interval_holds_1_is_no_win(
    factors: tuple[tuple[float, ...], ...], said: str, power_law: PowerLaw
) -> None:
    (curve,) = curves(slowed(power_law(samples=3, tokens=(2000, 4000, 8000)), factors))
    assert sentence(curve, "tokens") == said


@pytest.mark.parametrize("samples", [3, 12])
@pytest.mark.parametrize("seed", range(6))
def test_a_sweep_and_a_report_judge_the_same_samples_alike(
    samples: int, seed: int, power_law: PowerLaw, row_of: Callable[..., Row]
) -> None:
    """On a method that is hardly faster, with noise: the words must agree whichever way it falls."""
    table = power_law(at=3900.0, power=3.0, noise=0.08, samples=samples, tokens=(4000,), seed=seed)
    (curve,) = curves(table)
    own, dense = table.loc[0, "samples_ms"], table.loc[0, "baseline_samples_ms"]
    rows = [
        row_of(name, engine="sdpa", samples_ms=ms, latency_ms=statistics.median(ms), latency_lo_ms=min(ms),
               latency_hi_ms=max(ms), baseline_ms=statistics.median(dense),
               speedup=statistics.median(dense) / statistics.median(ms))
        for name, ms in (("full", dense), ("sta", own))
    ]  # fmt: skip
    taken = [
        Sample(cell_id=row.cell_id, round=number, cold_ms=ms, heads_timed=row.heads_timed, threads=row.threads,
               inputs_hash=row.inputs_hash or "")
        for row in rows for number, ms in enumerate(row.samples_ms)
    ]  # fmt: skip
    (case,) = cases_of(rows, {rows[0].run_id: taken})
    assert curve.points[0].speedup == case.speedups[rows[1].row_id]
    told = judge(case)
    said = sentence(curve, "tokens")
    side = curve.points[0].speedup.side
    assert ("neither clearly" in said) == ("and the interval holds 1" in told.sentence) == (side == "unclear")
    assert ("is faster" in said) == ("as fast as the fastest dense kernel" in told.sentence) == (side == "faster")
    assert told.outcome == side


def test_layers_are_named_only_where_there_are_several(power_law: PowerLaw) -> None:
    assert [label(curve) for curve in curves(power_law())] == ["sta"]
    found = curves(power_law(layers=2))
    assert [label(curve) for curve in found] == ["sta, mean of layers 0, 1", "sta layer 0", "sta layer 1"]
    assert shown(found) == found[:1]


def test_what_differs_between_points_is_noted(power_law: PowerLaw) -> None:
    plain = power_law()
    assert notes(curves(plain)) == ["speed-up: dense baseline over method, medians, and the interval: 95 %"]
    table = power_law()
    table.loc[0, "baseline"], table.loc[0, "engine"], table.loc[0, "heads_timed"] = "full/flex", "triton", 12
    table.loc[1, "verdict"], table.loc[1, "reason"] = "oom", "no room"
    said = notes(curves(table))
    assert "the dense baseline is not the same at every point: full/flex, full/sdpa" in said
    assert "sta ran on different engines at different points: reference, triton" in said
    assert "heads timed differ from point to point: 1, 12; give --heads" in said
    assert "left out: sta layer 0 at 4,000 tokens: oom: no room" in said


def test_records_are_plain_and_hold_the_break_even(power_law: PowerLaw) -> None:
    (record,) = records(curves(power_law()), "tokens")
    assert record["break_even"]["at"] == pytest.approx(9000)
    assert record["sentence"].startswith("sta beats")


def test_the_picture_holds_every_point_the_dense_line_and_the_break_even(power_law: PowerLaw) -> None:
    table = power_law(noise=0.05)
    (curve,) = curves(table)
    figure = curve_figure([curve], "a title")
    assert figure is not None
    above, below = figure.axes
    for axes, name in ((above, "speedup"), (below, "translation")):
        wanted = [(point.x, getattr(point, name).value) for point in curve.points]
        assert any([*zip(line.get_xdata(), line.get_ydata(), strict=True)] == wanted for line in axes.lines)
        assert any(list(line.get_ydata()) == [1, 1] for line in axes.lines)
    assert any(list(line.get_xdata()) == [curve.break_even.at] for line in above.lines)
    assert "tokens" in below.get_xlabel()
    assert svg_bytes(curve_figure([curve], "a title")) == svg_bytes(figure)  # type: ignore[arg-type]  # it has points
    empty = curves(table.assign(verdict="oom"))
    assert curve_figure(empty, "a title") is None


def test_without_a_method_but_full_a_sweep_says_why_there_is_no_curve() -> None:
    assert notes([]) == [
        "full attention is the dense baseline of every point and has no curve: its latencies are in the rows"
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"eager_at": 12000.0}, "faster than the dense baseline from 12,000 tokens on."),
        ({"eager_at": 12000.0, "power": -0.4}, "faster than the dense baseline up to 12,000 tokens only."),
        ({"eager_at": 1000.0}, "faster than the dense baseline everywhere measured."),
        ({"eager_at": 99000.0}, "slower than the dense baseline everywhere measured."),
    ],
)
def test_calls_back_to_back_have_a_sentence_a_column_and_a_line(
    changes: dict[str, object], said: str, power_law: PowerLaw
) -> None:
    found = curves(power_law(**changes))
    assert wall_clock_sentence(found[0], "tokens") == f"sta, calls back to back by wall clock: {said}"
    assert records(found, "tokens")[0]["wall_clock_sentence"].endswith(said)
    assert "by wall clock: calls back to back, measured once a point, so there is no interval" in notes(found)
    figure = curve_figure(found, "a device")
    assert figure is not None
    assert b"dotted: calls back to back" in svg_bytes(figure)
    last = curve_table(found[0]).table.columns[-1]
    assert last.header == "by wall clock"
    assert next(iter(last.cells)).endswith("×")


def test_without_calls_back_to_back_nothing_is_said_of_them(power_law: PowerLaw) -> None:
    found = curves(power_law())
    assert wall_clock_sentence(found[0], "tokens") == ""
    assert not any("wall clock" in note for note in notes(found))
    figure = curve_figure(found, "a device")
    assert figure is not None
    assert b"dotted" not in svg_bytes(figure)
    assert [str(column.header) for column in curve_table(found[0]).table.columns][-1] == "translation"
