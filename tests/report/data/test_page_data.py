"""The data of a report: what is selected, ranked and said of real and made-up rows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from attnbench.kernels.errors import BadInput
from attnbench.report.data.figure import Figure
from attnbench.report.data.figure import table_of as table_of_figure
from attnbench.report.data.page import PageData, page_data, to_json
from attnbench.report.data.schema import json_schema
from attnbench.report.data.selections import selections_of
from attnbench.report.formats.flat import chosen_table
from attnbench.results.layers import load_means
from attnbench.results.load import Results, read

Maker = Callable[..., Any]
H100 = Path(__file__).parents[3] / "results/h100"
TABLES = [H100 / f"720p-video-{direction}.jsonl.gz" for direction in ("fwd", "fwdbwd")]


@pytest.fixture(scope="module")
def data() -> PageData:
    return page_data(read(H100 / "profiles"), source=["results/h100/profiles"])


TILE = '{"tile":[6,8,8]}'


def records(data: PageData, name: str) -> list[dict[str, Any]]:
    table = data.table(name)
    assert table is not None
    return list(table.records())


def figures(data: PageData, section: str) -> list[Figure]:
    return [figure for figure in data.figures if figure.section == section]


def test_it_is_json_that_fits_its_schema(data: PageData) -> None:
    text = to_json(data)
    assert "<" not in text
    plain = json.loads(text)
    adapter = TypeAdapter(PageData)
    back = adapter.validate_python(plain, strict=False)
    assert back.selections == data.selections
    assert [figure.name for figure in back.figures] == [figure.name for figure in data.figures]
    assert set(plain) <= set(json_schema()["properties"])


def test_every_field_of_the_schema_is_explained() -> None:
    schema = json_schema()
    for name, part in {"PageData": schema, **schema["$defs"]}.items():
        assert part["description"], name
        for field, what in part["properties"].items():
            if name != "MethodMark":
                assert what.get("description"), f"{name}.{field}"


def test_names_of_figures_and_tables_are_unique(data: PageData) -> None:
    for names in ([each.name for each in data.figures], [each.name for each in data.tables]):
        assert len(set(names)) == len(names)


def test_ranked_figures_are_those_of_load_means(data: PageData) -> None:
    means = load_means(H100 / "profiles")
    known = {row.row_id: row for row in means.itertuples()}
    ranked = records(data, "means")
    assert len(ranked) == len(known), "no mean was measured twice in this folder"
    for row in ranked:
        for name in ("latency_ms", "speedup", "density", "approximation_error", "baseline"):
            assert row[name] == getattr(known[row["row_id"]], name)


def test_a_selection_is_ranked_by_latency(data: PageData) -> None:
    for place in range(len(data.selections)):
        times = [row["latency_ms"] for row in records(data, "means") if row["selection"] == place]
        assert times == sorted(times)


def test_intervals_hold_their_value(data: PageData) -> None:
    for row in records(data, "means"):
        assert row["speedup_lo"] <= row["speedup"] <= row["speedup_hi"]
    for figure in data.figures:
        for series in figure.series:
            for point in series.points:
                assert point.lo is None or point.hi is None or point.lo <= point.y <= point.hi


def test_a_frontier_only_rises_and_nothing_is_beyond_it(data: PageData) -> None:
    drawn = [figure for figure in figures(data, "trade-off") if figure.option == "error"]
    assert drawn
    for figure in drawn:
        frontier = next(series for series in figure.series if series.name == "frontier").points
        assert [point.y for point in frontier] == sorted(point.y for point in frontier)
        for series in figure.series:
            for point in series.points if series.method not in ("", "full") else ():
                assert point.apart or any(edge.x <= point.x and edge.y >= point.y for edge in frontier)


def test_bars_of_phases_stand_end_to_end_and_waterfalls_add_up(data: PageData) -> None:
    for figure in figures(data, "phases"):
        ends: dict[str, float] = {}
        for bar in figure.bars:
            assert bar.start == pytest.approx(ends.get(bar.line, 0.0))
            ends[bar.line] = bar.start + bar.size
    assert figures(data, "waterfall")
    for figure in figures(data, "waterfall"):
        *parts, total = figure.bars
        assert math.fsum(bar.size for bar in parts) == pytest.approx(total.size)


def test_no_phase_is_above_the_roof(data: PageData) -> None:
    for figure in figures(data, "roofline"):
        roof = next(series for series in figure.series if "TB/s" in series.name).points
        peak, slope = roof[1].y, roof[0].y / roof[0].x
        for series in figure.series:
            for point in series.points if series.method else ():
                assert point.y <= min(peak, slope * point.x) * 1.01


def test_points_of_a_roofline_say_method_layer_and_phase(data: PageData) -> None:
    """Layers of a method share a series, so that what differs in the figure has a mark of its own."""
    drawn = figures(data, "roofline")
    assert drawn
    for figure in drawn:
        named = [series for series in figure.series if series.method]
        assert len({series.name for series in named}) == len(named)
        assert not [series.name for series in named if "layer" in series.name]
        labels = [point.label for series in named for point in series.points]
        assert len(set(labels)) == len(labels)
    words = {point.label for series in drawn[0].series for point in series.points}
    assert {"sta: attend", "vmoba · triton, layer 2: attend"} <= words
    both = next(figure for figure in drawn if "fwdbwd" in figure.name)
    assert any(point.label.endswith(": forward attend") for series in both.series for point in series.points)


def test_a_newer_run_takes_the_place_of_an_older_one(row_of: Maker, table_of: Maker, environment_of: Maker) -> None:
    old = row_of("sta", run_id="old", latency_ms=50.0)
    new = row_of("sta", run_id="new", latency_ms=40.0)
    failed = row_of("sta", run_id="newest", verdict="oom", reason="needs 90 GiB")
    when = {
        name: environment_of(started_at=f"2026-01-0{day}T00:00:00Z")
        for day, name in enumerate(("old", "new", "newest"), 1)
    }
    (selection,) = selections_of(table_of([new, failed, old], **when))
    assert [choice.row.latency_ms for choice in selection.choices] == [40.0]
    assert selection.current == {new.row_id}
    assert len(selection.rows) == 3
    data = page_data(table_of([new, failed, old], **when))
    history = next(figure for figure in data.figures if figure.section == "history")
    assert [point.y for point in history.series[0].points] == [2.0, 2.5]
    assert [at for at, _ in history.x.ticks] == [point.x for point in history.series[0].points]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d \w+\+?", words) for _, words in history.x.ticks)


def test_rows_of_other_shapes_and_inputs_are_other_selections(row_of: Maker, table_of: Maker) -> None:
    rows = [row_of(), row_of(grid="9x30x52", tokens=14040), row_of(inputs="gaussian"), row_of(heads=40, kv_heads=40)]
    chosen = page_data(table_of(rows)).selections
    assert len({(each.shape, each.inputs) for each in chosen}) == 4
    assert any("40 heads" in each.shape for each in chosen)


def test_similar_density_is_told_where_there_is_one(row_of: Maker, table_of: Maker) -> None:
    full = row_of("full", density=1.0, latency_ms=100.0, engine="sdpa")
    same = [row_of("sta", density=0.25, latency_ms=30.0), row_of("moba", density=0.26, latency_ms=50.0)]
    (chosen,) = page_data(table_of([full, *same])).selections
    assert "about the same density" in chosen.density
    apart = [*same, row_of("vmoba", density=0.1, latency_ms=20.0)]
    (chosen,) = page_data(table_of([full, *apart])).selections
    assert chosen.density.startswith("Densities differ, from 0.100 to 0.260")
    assert "At a similar density, 0.25 to 0.26: sta 3.33×, then moba 2.00×." in chosen.density


def test_the_largest_groups_of_similar_density_come_first_and_the_others_are_counted(
    row_of: Maker, table_of: Maker
) -> None:
    densities = {
        "sta": 0.09, "radial": 0.095, "moba": 0.1, "draft": 0.15, "svg1": 0.16, "bsa": 0.25, "vsa": 0.26, "sla": 0.262,
        "nabla": 0.275, "xattention": 0.4, "sparge": 0.42, "svg2": 0.6, "vmoba": 0.62, "subblock": 0.9,
    }  # fmt: skip
    rows = [row_of(name, density=each, latency_ms=100 * each) for name, each in densities.items()]

    (chosen,) = page_data(table_of([row_of("full", density=1.0, latency_ms=100.0, engine="sdpa"), *rows])).selections

    _, *groups = chosen.density.split(" At a similar density, ")
    assert groups[0] == "0.25 to 0.28: bsa 4.00×, then vsa 3.85×, sla 3.82×, nabla 3.64×."
    # moba, at 0.1, is more than a tenth above sta
    assert groups[1].startswith("0.090 to 0.095: sta 11.1×, then radial 10.5×.")
    assert groups[2].startswith("0.15 to 0.16:")
    assert groups[2].endswith("2 more groups: density 0.40 to 0.42 and 0.60 to 0.62.")


def test_what_spoils_the_verdict_is_said_first_and_then_the_others(row_of: Maker, table_of: Maker) -> None:
    dense = row_of("full", engine="sdpa", density=1.0, latency_ms=100.0, flags="power-capped")
    rows = [dense, row_of("sta", flags=""), row_of("moba", flags="cpu-bound", latency_ms=60.0)]
    data = page_data(table_of([*rows, row_of("vmoba", latency_ms=70.0)]))
    (chosen,) = data.selections
    assert chosen.trust == (
        "Its baseline, full/sdpa, was power-capped; sta was not flagged. The speed-up may therefore be too high. "
        "Of the others: the CPU could not enqueue fast enough for moba; not recorded for 1 of 2."
    )
    means = data.table("means")
    assert means is not None
    assert {each["baseline_flags"] for each in means.records()} == {"power-capped"}
    (chosen,) = page_data(table_of([dense.model_copy(update={"flags": ""}), row_of("sta", flags="")])).selections
    assert chosen.trust == "Neither power cap nor CPU spoiled sta or its baseline, full/sdpa."


def test_a_baseline_that_was_only_timed_beside_others_is_judged_by_its_samples() -> None:
    found = page_data(read(H100 / "720p-gaussian-fwdbwd-flash4.jsonl.gz")).selections
    assert found
    for each in found:
        assert "its baseline, full/flash4" in each.trust.replace("Its", "its")
        assert "is not recorded" not in each.trust


def test_flags_of_older_journals_come_from_their_samples() -> None:
    chosen = page_data(read(TABLES[1])).selections[0]
    assert "power cap" in chosen.trust


def test_a_folder_without_rows_of_any_kind_is_refused() -> None:
    with pytest.raises(BadInput, match="no rows"):
        page_data(Results())


def test_hostile_text_cannot_end_the_data(row_of: Maker, table_of: Maker) -> None:
    hostile = "</script><script>alert(1)</script>\u2028"
    text = to_json(page_data(table_of([row_of("sta", inputs=hostile, device=hostile)])))
    assert "<" not in text
    assert "\u2028" not in text
    assert json.loads(text)["devices"] == [hostile]


def test_the_data_behind_a_figure_is_a_table(data: PageData) -> None:
    for figure in data.figures:
        table = table_of_figure(figure)
        assert table.rows
        assert all(len(row) == len(table.columns) for row in table.rows)


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({}, {"settings_given": TILE, "engine_asked": "reference"}, ["auto, defaults", "reference, tile 6×8×8"]),
        ({}, {"settings_given": TILE}, ["defaults", "tile 6×8×8"]),
        ({}, {"engine_asked": "reference"}, ["auto", "reference"]),
    ],
)
def test_names_tell_apart_what_was_asked_for_in_different_words(
    first: dict[str, Any], second: dict[str, Any], names: list[str], row_of: Maker, table_of: Maker
) -> None:
    alike: dict[str, Any] = {"settings": {"tile": [6, 8, 8]}, "settings_given": "{}", "engine_asked": None}
    rows = [row_of("sta", **alike | first), row_of("sta", **alike | second, latency_ms=41.0)]
    means = records(page_data(table_of(rows)), "means")
    assert [row["label"] for row in means] == [f"sta · asked: {name}" for name in names]


def test_figures_are_named_by_what_they_show(row_of: Maker, table_of: Maker) -> None:
    """Names become files: each has its own, on file systems that know no capitals too, and says section and shape."""
    shapes: list[dict[str, Any]] = [
        {},
        {"heads": 40, "kv_heads": 40, "heads_timed": 40},
        {"direction": "fwdbwd"},
        {"grid": "3x4x5"},
    ]
    rows = [
        row_of(method, latency_ms=ms, settings={"window": [side, 3, 3]}, **shape)
        for shape in shapes
        for method, ms in (("full", 100.0), ("sta", 40.0), ("STA", 45.0))
        for side in (1, 3)
    ]
    data = page_data(table_of(rows))
    names = [figure.name for figure in data.figures]
    assert len({name.lower() for name in names}) == len(names)
    assert all(figure.name.startswith(figure.section) for figure in data.figures)
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)
    assert [each.name for each in data.selections] == [
        "480p-12-heads-fwd-video", "480p-40-heads-fwd-video", "480p-12-heads-fwdbwd-video", "3x4x5-12-heads-fwd-video",
    ]  # fmt: skip
    assert "trade-off-error-480p-40-heads-fwd-video" in names


def test_figures_of_profiles_say_method_and_layer_in_their_names(data: PageData) -> None:
    names = [figure.name for figure in data.figures]
    assert len(set(names)) == len(names)
    assert "waterfall-720p-12-heads-fwd-video-vmoba-layer-0-triton" in names
    assert {"phases-whole-720p-12-heads-fwd-video", "phases-attend-720p-12-heads-fwd-video"} <= set(names)
    assert not [name for name in names if re.search(r"-[0-9a-f]{16}|video-\d+$", name)]


def test_a_selection_counts_the_rows_of_its_table(data: PageData) -> None:
    ranked = [each["selection"] for each in records(data, "means")]
    assert [each.methods for each in data.selections] == [ranked.count(each.place) for each in data.selections]


def test_clips_of_two_runs_have_bars_of_their_own() -> None:
    rows = read(H100 / "clips/half").quality
    again = tuple(row.model_copy(update={"run_id": "another"}) for row in rows)
    for figure in figures(page_data(Results(quality=(*rows, *again))), "quality"):
        lines = [bar.line for bar in figure.bars]
        assert len(set(lines)) == len(lines)
        assert any(line.endswith(" · run another") for line in lines)


@pytest.mark.parametrize("name", ["means", "cells", "phases"])
def test_a_table_that_stands_alone_says_what_each_row_was_measured_on(data: PageData, name: str) -> None:
    shapes = {row.row_id: (row.device, row.direction, row.grid) for row in read(H100 / "profiles").rows}
    words = {"forward": "fwd", "forward and backward": "fwdbwd"}
    known = 0
    for each in chosen_table(data, name).records():
        assert "selection" not in each
        if each["row_id"] in shapes:  # a mean of several layers has a row_id of its own
            device, direction, grid = shapes[str(each["row_id"])]
            assert (each["device"], words[str(each["direction"])]) == (device, direction)
            assert grid.replace("x", "×") in str(each["shape"])
            assert {"dtype", "inputs", "model", "method", "settings_given"} <= set(each)
            known += 1
    assert known > 5
