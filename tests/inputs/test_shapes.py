from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.inputs.presets import MODELS, RESOLUTIONS, TokenRule
from attnbench.inputs.shapes import frames_at, resolve_shape
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid


@pytest.mark.parametrize(
    ("res", "grid", "tokens"),
    [("480p", (21, 30, 52), 32_760), ("576p", (24, 36, 64), 55_296), ("720p", (21, 45, 80), 75_600)],
)
def test_resolutions_have_the_published_token_counts(res: str, grid: tuple[int, int, int], tokens: int) -> None:
    shape = resolve_shape(res=res)
    assert shape.grid.shape == grid
    assert shape.tokens == tokens


@given(k=st.integers(0, 60), res=st.sampled_from(sorted(RESOLUTIONS)))
def test_each_four_frames_after_the_first_add_a_token_frame(k: int, res: str) -> None:
    assert resolve_shape(res=res, frames=4 * k + 1).grid.t == k + 1


@given(frames=st.integers(-8, 300).filter(lambda n: n < 1 or n % 4 != 1))
def test_other_frame_counts_are_refused_with_ones_that_would_do(frames: int) -> None:
    with pytest.raises(BadInput, match=rf"frames {frames} ") as error:
        resolve_shape(frames=frames)
    for word in str(error.value).split("such as ")[1].split(" or "):
        assert resolve_shape(frames=int(word)).grid.t >= 1


@pytest.mark.parametrize(
    ("model", "width", "layers", "text"),
    [
        ("wan2.1-1.3b", 1536, 30, (0, 0)),
        ("wan2.1-14b", 5120, 40, (0, 0)),
        ("hunyuan", 3072, 60, (0, 256)),
        ("cogvideox-5b", 3072, 42, (226, 0)),
        ("mini", 256, 6, (0, 0)),
    ],
)
def test_heads_times_head_dim_is_the_models_width(model: str, width: int, layers: int, text: tuple[int, int]) -> None:
    shape = resolve_shape(model=model)
    assert shape.heads * shape.head_dim == width
    assert (shape.layers, shape.layout.text, shape.model) == (layers, text, model)
    assert shape.tokens == sum(text) + shape.grid.tokens
    assert MODELS[model].source


def test_the_default_is_wan_at_480p() -> None:
    assert resolve_shape() == resolve_shape(model="wan2.1-1.3b", res="480p", frames=81)


def test_mini_has_its_own_grid() -> None:
    assert resolve_shape(model="mini").grid == Grid(8, 32, 32)


def test_a_grid_alone_is_no_model() -> None:
    shape = resolve_shape(grid="2x3x5", heads=6)
    assert (shape.model, shape.layers, shape.layout.text) == (None, 1, (0, 0))
    assert (shape.heads, shape.kv_heads, shape.head_dim, shape.tokens) == (6, 6, 128, 30)


def test_a_grid_with_a_model_keeps_the_models_heads_layers_and_text() -> None:
    shape = resolve_shape(grid=Grid(2, 3, 5), model="cogvideox-5b")
    assert (shape.model, shape.heads, shape.layers, shape.tokens) == ("cogvideox-5b", 48, 42, 256)


def test_kv_heads_follow_heads_unless_given() -> None:
    assert resolve_shape(heads=8).kv_heads == 8
    assert resolve_shape(heads=8, kv_heads=2).kv_heads == 2
    assert resolve_shape(kv_heads=3).kv_heads == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "wan2.1-1.3"}, ["'wan2.1-1.3'", "did you mean 'wan2.1-1.3b'"]),
        ({"res": "480"}, ["'480'", "did you mean '480p'"]),
        ({"grid": "2x3"}, ["'2x3'"]),
        ({"grid": "2x3x4", "res": "480p"}, ["2x3x4", "drop --res 480p"]),
        ({"grid": "2x3x4", "frames": 5, "res": "480p"}, ["drop --res 480p and --frames 5"]),
        ({"model": "mini", "frames": 81}, ["mini", "8x32x32", "drop --frames 81"]),
        ({"heads": 0}, ["heads 0"]),
        ({"heads": 7, "kv_heads": 2}, ["kv_heads 2", "heads 7"]),
        ({"kv_heads": 0}, ["kv_heads 0"]),
        ({"head_dim": -1}, ["head_dim -1"]),
        ({"batch": 0}, ["batch 0"]),
        ({"frames": 81.0}, ["frames 81.0"]),
    ],
)
def test_bad_options_are_quoted(options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(BadInput) as error:
        resolve_shape(**options)  # type: ignore[arg-type]  # wrong on purpose
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("options", "grid", "text"),
    [
        ({"model": "minimax-h3"}, "37x24x42", (951, 0)),
        ({"model": "minimax-h3", "frames": 345}, "102x24x42", (1234, 0)),
        ({"model": "minimax-h3", "frames": 345, "text_tokens": "951"}, "102x24x42", (951, 0)),
        ({"model": "minimax-h3", "grid": "102x24x42"}, "102x24x42", (1234, 0)),
        ({"model": "minimax-h3", "height": 768, "width": 1344, "frames": 243}, "72x24x42", (951, 0)),
        ({"model": "minimax-h3", "height": 32, "width": 64, "frames": 5}, "2x1x2", (951, 0)),
        ({"model": "wan2.2-a14b", "res": "720p"}, "21x45x80", (0, 0)),
        ({"model": "wan2.2-5b"}, "31x22x40", (0, 0)),
        ({"model": "hunyuan1.5", "text_tokens": "256"}, "31x45x80", (0, 256)),
        ({"model": "ltx-2"}, "16x16x24", (0, 0)),
        ({"model": "cogvideox1.5-5b"}, "11x48x85", (226, 0)),
        ({"height": 768, "width": 1280, "frames": 69}, "18x48x80", (0, 0)),
        ({"height": 480, "width": 832}, "21x30x52", (0, 0)),
        ({"grid": "2x3x4", "text_tokens": "7"}, "2x3x4", (0, 7)),
        ({"grid": "2x3x4", "model": "cogvideox-5b", "text_tokens": "3+5"}, "2x3x4", (3, 5)),
        ({"model": "cogvideox-5b", "text_tokens": "0"}, "21x30x52", (0, 0)),
    ],
)
def test_shapes_of_the_field(options: dict[str, Any], grid: str, text: tuple[int, int]) -> None:
    shape = resolve_shape(**options)
    assert (str(shape.grid), shape.layout.text) == (grid, text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "minimax-h3", "frames": 125}, r"frames 125 must be of the form 17k\+5, such as 124 or 141"),
        ({"model": "minimax-h3", "frames": 4}, r"frames 4 must be of the form 17k\+5, such as 5 or 22"),
        ({"model": "ltx-2", "frames": 124}, r"frames 124 must be of the form 8k\+1, such as 121 or 129"),
        ({"model": "wan2.2-5b", "res": "720p"}, "height 720 must be a multiple of 32, .*, such as 704 or 736"),
        ({"height": 100, "width": 160}, "height 100 must be a multiple of 16, .*, such as 96 or 112"),
        ({"height": 96, "width": 0}, "width 0 must be a multiple of 16"),
        ({"height": 96}, "--height 96 needs --width too"),
        ({"width": 96}, "--width 96 needs --height too"),
        ({"height": 96, "width": 96, "res": "480p"}, "--res 480p already says the pixels: drop --height 96"),
        ({"height": 96, "grid": "2x3x4"}, "--grid 2x3x4 already says the tokens: drop --height 96"),
        ({"model": "mini", "height": 96, "width": 96}, "has one grid, 8x32x32: drop --height 96 and --width 96"),
        *(({"text_tokens": bad}, "--text-tokens .* must be a whole number") for bad in ("-1", "a", "1+2+3", "1.5", "")),
    ],
)  # fmt: skip
def test_videos_and_text_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        resolve_shape(**options)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.grid is None])
@given(n=st.integers(0, 30))
def test_token_frames_and_frames_of_a_model_go_both_ways(name: str, n: int) -> None:
    rule: TokenRule = MODELS[name].rule
    frames = rule.frames[0] + n * rule.frames[1]
    grid = resolve_shape(model=name, frames=frames).grid
    assert grid.t == rule.tokens[0] + n * rule.tokens[1]
    assert rule.frames_of(grid.t) == frames
    assert frames_at(grid.tokens + 7, 7, grid, name) == pytest.approx(frames)
    assert rule.nearest(grid.t + 0.4) == grid.t
