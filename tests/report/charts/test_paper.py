"""Figures for papers hold the data of the report's figures, at the width that was asked for."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from attnbench.report.charts.paper import PICTURES, draw, picture
from attnbench.report.data.figure import Axis, Bar, Figure, Heat, Point, Series, Strip, level
from attnbench.report.marks import mark_of

XY = Figure(
    "points", "trade-off", "xy", "title", "caption", "words", Axis("error", better="lower", least=0.0),
    Axis("speed-up over the dense baseline, ×", log=True, better="higher"),
    series=(
        Series("sta $x$", (Point(0.1, 2.0, 1.9, 2.2), Point(0.3, 4.0)), "sta"),
        Series("sta · two-call", (Point(0.2, 1.5, 1.4, 1.6),), "sta", "line"),
        Series("vmoba", (Point(0.2, 3.0, 2.0, 4.0), Point(0.4, 5.0, 4.0, 6.0)), "vmoba", "band"),
        Series("frontier", (Point(0.1, 2.0), Point(0.3, 4.0)), look="steps"),
        Series("dense", (Point(0.0, 1.0), Point(0.3, 1.0)), look="guide", dashed=True),
        Series("nothing", ()),
    ),
)  # fmt: skip
BARS = Figure(
    "bars", "phases", "bars", "title", "caption", "words", Axis("milliseconds", least=0.0),
    bars=(
        Bar("vmoba · layer 0", "pool", 0.0, 1.0), Bar("vmoba · layer 0", "attend", 1.0, 3.0, provenance="modelled"),
        Bar("sta", "attend", 0.0, 2.0, 1.8, 2.3),
    ),
)  # fmt: skip
HEAT = Figure(
    "heat", "density", "heat", "title", "caption", "words", Axis("density", least=0.0, most=1.0),
    cells=(Heat("sta", "layer 0", 0.12), Heat("vmoba", "layer 0", 0.2), Heat("vmoba", "layer 1", None)),
)  # fmt: skip

STRIPS = Figure(
    "strips", "masks", "heat", "title", "caption", "words", Axis("share", least=0.0, most=1.0),
    strips=tuple(Strip(f"query {t}", (t / 63,) * 64) for t in range(64)), places=tuple(f"key {t}" for t in range(64)),
)  # fmt: skip


@pytest.mark.parametrize("form", PICTURES)
@pytest.mark.parametrize("figure", [XY, BARS, HEAT, STRIPS], ids=lambda figure: figure.name)
def test_equal_figures_give_equal_files(figure: Figure, form: str) -> None:
    content = picture(figure, form)
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[form])
    assert picture(figure, form) == content


@pytest.mark.parametrize("width", [40.0, 84.0, 174.0])
@pytest.mark.parametrize("figure", [XY, BARS, HEAT, STRIPS], ids=lambda figure: figure.name)
def test_a_figure_is_as_wide_as_asked(figure: Figure, width: float) -> None:
    root = ElementTree.fromstring(picture(figure, "svg", width))
    assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(width / 25.4 * 72, abs=0.1)
    assert draw(figure, width).get_size_inches()[1] * 25.4 < 3 * width


def test_points_lines_and_intervals_are_those_of_the_data() -> None:
    (axes,) = draw(XY).axes
    drawn = {str(line.get_label()): line for line in axes.lines}
    assert list(drawn) == ["sta $x$", "sta · two-call", "vmoba", "frontier", "dense"]
    for series in XY.series[:-1]:
        line = drawn[series.name]
        assert [*zip(line.get_xdata(), line.get_ydata(), strict=True)] == [(p.x, p.y) for p in series.points]
        if series.method:
            assert line.get_color() == mark_of(series.method).light
    ends = {
        (round(segment[0][0], 6), round(segment[0][1], 6), round(segment[1][1], 6))
        for lines in axes.collections
        if hasattr(lines, "get_segments")
        for segment in lines.get_segments()
    }
    assert ends == {(0.1, 1.9, 2.2), (0.2, 1.4, 1.6)}
    assert axes.get_yscale() == "log"
    assert "(lower is better)" in re.sub(r"\s+", " ", axes.get_xlabel())


def test_two_series_of_a_method_look_different() -> None:
    (axes,) = draw(XY).axes
    first, second = (line for line in axes.lines if str(line.get_label()).startswith("sta"))
    assert first.get_color() == second.get_color()
    assert first.get_markerfacecolor() != second.get_markerfacecolor()


def test_bars_reach_from_start_to_end_and_modelled_ones_are_hatched() -> None:
    (axes,) = draw(BARS).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    found = {
        (names[round(patch.get_y() + 0.33)], patch.get_x(), patch.get_width(), bool(patch.get_hatch()))
        for patch in axes.patches
    }  # fmt: skip
    assert found == {
        ("vmoba · layer 0", 0.0, 1.0, False), ("vmoba · layer 0", 1.0, 3.0, True), ("sta", 0.0, 2.0, False),
    }  # fmt: skip
    assert axes.get_xlim()[0] == 0


def test_a_map_shows_each_value_and_leaves_out_what_is_missing() -> None:
    axes = draw(HEAT).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.120", "0.200"]
    assert axes.images[0].get_clim() == (0.0, 1.0)


def test_ticks_with_words_stand_at_their_values() -> None:
    ticks = tuple((float(place), f"2026-01-{place:02d} abc{place}") for place in range(1, 13))
    points = tuple(Point(at, at) for at, _ in ticks)
    axis = Axis("run", ticks=ticks)
    figure = Figure("history", "history", "xy", "t", "c", "w", axis, Axis("y"), series=(Series("sta", points, "sta"),))
    for width, most in ((84.0, 4), (300.0, 15)):
        axes = draw(figure, width).axes[0]
        told = {tick: label.get_text() for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)}
        assert 2 <= len(told) <= most
        assert told.items() <= {at: words.replace(" ", "\n") for at, words in ticks}.items()


def test_long_names_of_bars_can_be_told_apart() -> None:
    lines = [f"vmoba · scope query, select topk, threshold 0.25, refine yes, topk {k}" for k in (2, 3)]
    figure = Figure("b", "quality", "bars", "t", "c", "w", Axis("x"), bars=tuple(Bar(x, "vmoba", 0, 1) for x in lines))
    shown = [label.get_text() for label in draw(figure, 84.0).axes[0].get_yticklabels()]
    assert len(set(shown)) == 2


def words_of(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_a_map_has_numbers_and_names_only_where_they_have_room() -> None:
    cells = tuple(Heat(f"a long name of settings {line}", f"layer {at}", 0.25) for line in range(3) for at in range(6))
    figure = Figure("m", "density", "heat", "", "", "", Axis("density"), cells=cells)
    narrow, wide = (draw(figure, mm) for mm in (84, 200))
    assert words_of(narrow.axes[0]) == []
    assert len(words_of(wide.axes[0])) == 18
    named = [len(drawing.axes[0].get_xticks()) for drawing in (narrow, wide)]
    assert named[0] < named[1] == 6


def test_guide_lines_differ_and_parts_have_one_colour_in_every_figure() -> None:
    guides = tuple(level(name, (0.0, 1.0), y) for name, y in (("one", 1.0), ("other", 2.0)))
    drawn = draw(Figure("g", "clips", "xy", "", "", "", Axis("x"), Axis("y"), series=guides)).axes[0]
    assert len({str(line._dash_pattern) for line in drawn.lines}) == 2  # type: ignore[attr-defined]  # matplotlib tells dashes nowhere else
    colours = set()
    for parts in (("attend", "pool"), ("pool", "attend")):
        bars = tuple(Bar("sta", part, float(place), 1.0) for place, part in enumerate(parts))
        axes = draw(Figure("b", "phases", "bars", "", "", "", Axis("ms"), bars=bars)).axes[0]
        colours.add(axes.patches[parts.index("attend")].get_facecolor())
    assert len(colours) == 1


def test_bars_have_their_values_and_a_roofline_its_phases() -> None:
    bars = tuple(Bar(name, name, 0.0, size) for name, size in (("full", 0.5), ("vmoba", 1276.0)))
    axes = draw(Figure("m", "memory", "bars", "", "", "", Axis("MiB"), bars=bars)).axes[0]
    assert words_of(axes) == ["0.500", "1,276"]
    places = ((1.0, 1.0, "pool"), (1.1, 1.0, "pool"), (900.0, 500.0, "attend"))
    series = Series("vmoba", tuple(Point(x, y, label=f"vmoba, layer 0: {word}") for x, y, word in places), "vmoba")
    log = Axis("x", log=True), Axis("y", log=True)
    roof = Figure("r", "roofline", "xy", "", "", "", *log, series=(series,))
    assert words_of(draw(roof).axes[0]) == ["pool", "attend"]
