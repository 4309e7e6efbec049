"""Speed-up over lengths: nothing that was measured at one of them is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnbench.report.data.figure import Figure
from attnbench.report.data.page import page_data

Maker = Callable[..., Any]
LENGTHS = {"21x30x52": 32760, "24x36x64": 55296, "21x45x80": 75600}


def curves_of(table: Any) -> list[Figure]:
    return [figure for figure in page_data(table).figures if figure.section == "break-even"]


def test_settings_that_one_length_alone_has_are_points_with_a_name_of_their_own(row_of: Maker, table_of: Maker) -> None:
    tiles = dict(zip(LENGTHS, ([6, 8, 8], [6, 4, 16], [6, 8, 8]), strict=True))
    rows = [
        row_of("sta", grid=grid, tokens=tokens, settings={"tile": tiles[grid]}, latency_ms=1e6 / tokens)
        for grid, tokens in LENGTHS.items()
    ]
    (figure,) = curves_of(table_of(rows))
    line, point, dense = figure.series
    assert [(each.name, each.look, [at.x for at in each.points]) for each in (line, point)] == [
        ("sta · tile 6×8×8", "line", [32760, 75600]), ("sta · tile 6×4×16", "points", [55296]),
    ]  # fmt: skip
    assert {at.label for at in point.points} == {point.name}
    assert [at.x for at in dense.points] == [32760, 75600]
    assert "Points alone were measured at one length only." in figure.caption
    assert "sta · tile 6×4×16: 5.53× at 55,296 tokens alone" in figure.words


def test_every_cell_with_a_speed_up_is_in_a_curve(row_of: Maker, table_of: Maker) -> None:
    grids = list(LENGTHS.items())
    rows = [row_of("vmoba", grid=grid, tokens=tokens) for grid, tokens in grids]
    rows += [row_of("moba", grid=grid, tokens=tokens, settings={"topk": 3}) for grid, tokens in grids[:1]]
    rows += [row_of("moba", grid=grid, tokens=tokens, settings={"topk": 9}) for grid, tokens in grids[2:]]
    (figure,) = curves_of(table_of(rows))
    drawn = {point.row for series in figure.series for point in series.points if point.row}
    means = page_data(table_of(rows)).table("means")
    assert means is not None
    assert drawn == {each["row_id"] for each in means.records()}


def test_without_two_lengths_of_anything_there_is_no_curve(row_of: Maker, table_of: Maker) -> None:
    rows = [row_of(settings={"topk": tokens}, grid=grid, tokens=tokens) for grid, tokens in LENGTHS.items()]
    assert curves_of(table_of(rows)) == []
    assert curves_of(table_of([row_of()])) == []


def test_captions_say_what_each_clock_holds(row_of: Maker, table_of: Maker) -> None:
    def drawn(timer: str) -> list[Figure]:
        given = {"latency_eager_ms": 50.0, "baseline_eager_ms": 100.0, "timer": timer}
        return curves_of(table_of([row_of(grid=grid, tokens=tokens, **given) for grid, tokens in LENGTHS.items()]))

    by_gpu, by_clock = drawn("events")
    assert by_gpu.title.endswith("by GPU time")
    assert "GPU time is what the device needs for one call" in by_gpu.caption
    assert drawn("wall")[0].title.endswith("by call time"), "a CPU has no GPU time"
    assert "what the CPU takes to launch them" in by_clock.caption
    assert {point.y for point in by_clock.series[0].points} == {2.0}
    assert "Points alone" not in by_gpu.caption


def test_defaults_that_were_spelled_out_at_one_length_do_not_cut_a_line(row_of: Maker, table_of: Maker) -> None:
    given = dict(zip(LENGTHS, ("{}", '{"tile":[6,8,8]}', '{"window":[3,3,3]}'), strict=True))
    rows = [
        row_of("sta", grid=grid, tokens=tokens, settings={"tile": [6, 8, 8]}, settings_given=given[grid])
        for grid, tokens in LENGTHS.items()
    ]
    twice = row_of("sta", grid="21x30x52", settings={"tile": [6, 8, 8]}, settings_given='{"tile":[6,8,8]}')
    for more, looks in (([], ["line", "guide"]), ([twice], ["line", "points", "guide"])):
        (figure,) = curves_of(table_of([*rows, *more]))
        assert [series.look for series in figure.series] == looks
        assert [point.x for point in figure.series[0].points] == [32760, 55296, 75600]
