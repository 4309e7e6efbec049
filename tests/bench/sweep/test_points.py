"""The points of a sweep."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.bench.jobs import make_agenda
from attnbench.bench.request import Request
from attnbench.bench.sweep.points import default_methods, make_sweep, scaled
from attnbench.inputs.shapes import frames_at
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid
from attnbench.methods import get_method
from attnbench.methods.entries import Entry
from attnbench.methods.registry import BUILT_IN


def ask(methods: dict[str, dict[str, Any]] | None = None, **fields: Any) -> Request:
    return Request(methods=methods or {"sta": {}}, device="cpu", inputs="gaussian", **fields)


def grids(sweep: Any) -> list[Grid]:
    return [make_agenda(point.request).shape.grid for point in sweep.points]


def test_by_default_five_grids_of_the_proportions_of_480p_with_one_head_each() -> None:
    sweep = make_sweep("tokens", ask())
    shapes = [make_agenda(point.request).shape for point in sweep.points]
    assert [(shape.heads, shape.kv_heads, shape.model) for shape in shapes] == [(1, 1, "wan2.1-1.3b")] * 5
    tokens = [shape.tokens for shape in shapes]
    assert tokens == sorted(set(tokens))
    assert 1900 < tokens[0] < 2200
    assert 15000 < tokens[-1] < 17000
    for shape in shapes:
        assert shape.grid.h / shape.grid.w == pytest.approx(30 / 52, rel=0.12)
        assert shape.grid.t / shape.grid.h == pytest.approx(21 / 30, rel=0.12)
    assert [point.name for point in sweep.points] == [f"tokens-{count}" for count in tokens]


@given(st.tuples(*[st.integers(1, 60)] * 3), st.integers(8, 40000))
def test_a_scaled_grid_has_about_the_tokens_and_no_side_below_2(shape: tuple[int, int, int], tokens: int) -> None:
    grid = scaled(Grid(*shape), tokens)
    assert all(side >= min(2, base) for side, base in zip(grid.shape, shape, strict=True))
    factor = (tokens / Grid(*shape).tokens) ** (1 / 3)
    for side, base in zip(grid.shape, shape, strict=True):
        assert side == pytest.approx(base * factor, abs=0.5001) or side == min(2, base)


def test_listed_points_and_ends_are_taken() -> None:
    listed = [g.tokens for g in grids(make_sweep("tokens", ask(), values=[8000, 1000]))]
    assert listed == [scaled(Grid(21, 30, 52), count).tokens for count in (1000, 8000)]
    counts = [g.tokens for g in grids(make_sweep("tokens", ask(), low=500, high=4000, count=4))]
    assert counts == [scaled(Grid(21, 30, 52), count).tokens for count in (500, 1000, 2000, 4000)]


def test_over_frames_only_the_first_axis_grows() -> None:
    sweep = make_sweep("frames", ask(res="720p"), values=[5, 9, 21])
    assert grids(sweep) == [Grid(2, 45, 80), Grid(3, 45, 80), Grid(6, 45, 80)]
    assert [point.name for point in sweep.points] == ["frames-5", "frames-9", "frames-21"]
    by_default = grids(make_sweep("frames", ask()))
    assert [(grid.h, grid.w) for grid in by_default] == [(30, 52)] * len(by_default)
    assert (by_default[0].t, by_default[-1].t) == (2, 10)
    for grid in by_default:
        assert frames_at(grid.tokens, 0, grid) == 4 * (grid.t - 1) + 1


def test_over_density_each_method_turns_its_own_knob() -> None:
    methods: dict[str, dict[str, Any]] = {"moba": {"blocks": 10}, "vmoba": {}}
    sweep = make_sweep("density", ask(methods, grid="8x12x16"), values=[0.1, 0.11, 0.5])
    asked = [{entry.method: entry.settings for entry in point.request.methods} for point in sweep.points]
    assert asked[0] == {"moba": {"blocks": 10, "topk": 1}, "vmoba": {"threshold": 0.1}}
    assert asked[1] == {"vmoba": {"threshold": 0.11}}  # moba would be the same again
    assert asked[2] == {"moba": {"blocks": 10, "topk": 5}, "vmoba": {"threshold": 0.5}}
    assert {point.request.grid for point in sweep.points} == {"8x12x16"}


def test_over_density_a_cpu_gets_a_small_grid_unless_a_size_is_asked_for() -> None:
    assert {grid.tokens for grid in grids(make_sweep("density", ask()))} == {17 * 24 * 41}
    assert {str(grid) for grid in grids(make_sweep("density", ask(res="480p")))} == {"21x30x52"}


def test_what_the_points_share_stays() -> None:
    request = ask({"sta": {"tile": (2, 2, 2)}}, model="hunyuan", heads=2, head_dim=32, direction="fwdbwd", rounds=4)
    for point in make_sweep("tokens", request, values=[500, 1000]).points:
        shape = make_agenda(point.request).shape
        assert (shape.model, shape.layout.text, shape.heads, shape.head_dim) == ("hunyuan", (0, 256), 2, 32)
        assert (point.request.direction, point.request.rounds) == ("fwdbwd", 4)
        assert point.request.methods == [Entry("sta", {"tile": (2, 2, 2)})]
    bare = make_sweep("tokens", ask(grid="4x8x8"), values=[100]).points[0]
    assert make_agenda(bare.request).shape.model is None


@pytest.mark.parametrize(
    ("over", "fields", "options", "said"),
    [
        ("token", {}, {}, "unknown --over 'token': did you mean 'tokens'"),
        ("tokens", {}, {"values": [4000], "count": 3}, "--points already says the points"),
        ("tokens", {}, {"values": []}, "names no point"),
        ("tokens", {}, {"values": [3]}, "tokens 3 must be at least 8"),
        ("tokens", {}, {"low": 9000, "high": 4000}, "--from 9000 and --to 4000"),
        ("tokens", {}, {"low": -1, "high": 4000}, "--from -1"),
        ("tokens", {}, {"count": 0}, "--count 0"),
        ("frames", {}, {"values": [5, 8]}, "frames 8 must be of the form 4k"),
        ("frames", {}, {"high": 20}, "frames 20 must be of the form 4k"),
        ("frames", {"frames": 81}, {}, "--frames 81: the sweep over frames sets it"),
        ("density", {}, {"values": [0.5, 1.2]}, "density 1.2"),
        ("density", {"methods": {"full": {}}}, {}, "'full' has no setting"),
        ("tokens", {"methods": {"sta": {"tiles": 3}}}, {}, "unknown setting of 'sta' 'tiles'"),
        ("tokens", {"res": "480"}, {}, "unknown resolution '480'"),
        ("tokens", {"engine": "no"}, {}, "unknown engine 'no'"),
    ],
)
def test_what_cannot_be_swept_is_refused(over: str, fields: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make_sweep(over, ask(**fields), **options)


def test_without_a_method_those_that_can_be_varied_are() -> None:
    assert default_methods("tokens") == ["moba", "vmoba", "sliding-window", "sta"]
    assert default_methods("tokens", every=True) == [name for name in BUILT_IN if name != "full"]
    assert set(default_methods("density")) <= set(default_methods("tokens"))
    varied = default_methods("density", every=True)
    assert varied == [name for name in BUILT_IN if name != "full" and get_method(name).density_setting is not None]


def test_a_sweep_over_frames_keeps_to_what_the_model_can_have() -> None:
    fields = {"model": "minimax-h3", "height": 32, "width": 64, "text_tokens": "3"}
    sweep = make_sweep("frames", ask(**fields), values=[5, 22, 39])
    assert [point.name for point in sweep.points] == ["frames-5", "frames-22", "frames-39"]
    assert [point.request.grid for point in sweep.points] == ["2x1x2", "7x1x2", "12x1x2"]
    assert all(point.request.text_tokens == "3+0" for point in sweep.points)
    with pytest.raises(BadInput, match=r"frames 20 must be of the form 17k\+5, such as 5 or 22"):
        make_sweep("frames", ask(**fields), values=[20])
    spread = make_sweep("frames", ask(**fields, frames=None), low=5, high=124, count=4)
    assert all((int(str(point.request.grid).split("x")[0]) - 2) % 5 == 0 for point in spread.points)
