from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.methods.draw import (
    ASCII_CELLS,
    ASCII_SHADES,
    KEPT,
    QUERY,
    SHADES,
    draw_plan,
    keys_of,
    local_density,
    mask_figure,
    mask_text,
    middle_query,
    panels_text,
    png_bytes,
)


def random_mask(rows: int, columns: int, seed: int = 0, density: float = 0.3) -> Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < density


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_local_density_is_the_mean_of_each_rectangle(n: int, m: int, data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, n)), data.draw(st.integers(1, m))
    mask = random_mask(n, m, data.draw(st.integers(0, 9)))
    expected = np.array(
        [
            [
                mask[i * n // rows : (i + 1) * n // rows, j * m // columns : (j + 1) * m // columns].numpy().mean()
                for j in range(columns)
            ]
            for i in range(rows)
        ]
    )
    np.testing.assert_allclose(local_density(mask, rows, columns).numpy(), expected, rtol=1e-5)


def test_shades_are_blank_only_where_nothing_is_kept_and_solid_where_all_is() -> None:
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[:2, 0] = mask[0, 7] = mask[2:, 4:] = True
    assert mask_text(mask, 8).splitlines() == ["█      ▒", "    ████"]
    assert mask_text(mask, 2).splitlines() == ["░▓"]  # 2 of 16 and 9 of 16
    assert mask_text(mask, 2, shades=ASCII_SHADES).splitlines() == [".+"]


@given(st.integers(1, 90), st.integers(1, 60), st.booleans())
def test_a_mask_in_text_keeps_to_its_width_and_its_shape(n: int, width: int, kept: bool) -> None:
    lines = mask_text(torch.full((n, n), kept), width).splitlines() if kept else []
    assert all(len(line) == min(width, 2 * n) for line in lines)
    assert len(lines) <= n
    assert set("".join(lines)) <= {SHADES[-1]}


def test_the_middle_query_is_behind_the_text_before_the_video() -> None:
    assert middle_query(Layout(Grid(6, 8, 12), (5, 9))) == 5 + (3 * 8 + 4) * 12 + 6
    assert middle_query(Layout(Grid(1, 1, 1))) == 0


def test_keys_of_a_query_leave_the_text_out() -> None:
    layout = Layout(Grid(2, 3, 4), (2, 1))
    mask = random_mask(27, 27)
    keys = keys_of(mask, layout, 7)
    assert keys.shape == (2, 3, 4)
    assert torch.equal(keys.flatten(), mask[7, 2:26])


def test_panels_show_each_frame_with_the_query() -> None:
    keys = torch.zeros(3, 2, 3, dtype=torch.bool)
    keys[0, 1, 2] = keys[1, 0, 1] = True
    assert panels_text(keys, (1, 0, 1), width=16, cells=ASCII_CELLS).split("\n") == [
        "frame   frame",
        "......  ..@@..",
        "....##  ......",
        "",
        "frame",
        "......",
        "......",
    ]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 120), st.integers(20, 100))
def test_panels_keep_to_the_width_and_show_every_row(frames: int, height: int, wide: int, width: int) -> None:
    keys = torch.ones(frames, height, wide, dtype=torch.bool)
    text = panels_text(keys, (0, 0, 0), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("frame") == frames or wide < 5
    if 2 * wide <= width:
        assert text.count("█") == 2 * (frames * height * wide - 1)


def test_the_picture_holds_every_pair_and_marks_the_query() -> None:
    grid = Grid(2, 3, 4)
    mask = random_mask(24, 24)
    figure = mask_figure(mask, "title", grid)
    whole, *panels = [axes for part in figure.subfigs for axes in part.axes]
    np.testing.assert_array_equal(np.asarray(whole.images[0].get_array()), mask.numpy())
    assert [axes.get_title() for axes in panels] == ["frame 0", "frame 1"]
    shown = np.stack([np.asarray(axes.collections[0].get_array()).reshape(3, 4) for axes in panels])
    np.testing.assert_array_equal(shown, mask[middle_query(Layout(grid))].reshape(2, 3, 4).numpy())
    assert [len(axes.patches) for axes in panels] == [0, 1]


def test_the_png_has_the_colours_of_kept_and_query() -> None:
    figure = mask_figure(torch.ones(24, 24, dtype=torch.bool), "all", Grid(2, 3, 4))
    with Image.open(io.BytesIO(png_bytes(figure, 80))) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    for name in (KEPT, QUERY):
        assert tuple(bytes.fromhex(name[1:])) in colours


def test_text_tokens_are_marked_on_both_axes() -> None:
    layout = Layout(Grid(2, 3, 4), (5, 6))
    figure = mask_figure(random_mask(35, 35), "text", layout.grid, layout.text)
    whole = figure.subfigs[0].axes[0]
    assert [label.get_text() for label in whole.get_xticklabels()] == ["0", "1", "text", "text"]


def test_a_mask_with_more_tokens_than_pixels_is_averaged_and_says_so() -> None:
    grid = Grid(2, 20, 25)
    figure = mask_figure(random_mask(1000, 1000, density=0.5), "large", grid)
    whole = figure.subfigs[0].axes[0]
    shown = np.asarray(whole.images[0].get_array())
    assert shown.shape[0] < 1000
    assert 0.45 < shown.mean() < 0.55
    assert "darker" in whole.get_title(loc="left")
    small = mask_figure(random_mask(24, 24), "small", Grid(2, 3, 4)).subfigs[0].axes[0]
    assert "darker" not in small.get_title(loc="left")


def test_a_mask_that_does_not_fit_the_grid_is_refused() -> None:
    with pytest.raises(BadInput, match=r"\[24, 24\]"):
        mask_figure(random_mask(23, 24), "", Grid(2, 3, 4))
    with pytest.raises(BadInput, match="bool"):
        mask_figure(torch.ones(24, 24), "", Grid(2, 3, 4))
    with pytest.raises(BadInput, match="4,097 tokens"):
        mask_figure(torch.ones(1, 1, dtype=torch.bool), "", Grid(1, 1, 4097))


def test_a_plan_is_drawn_head_by_head_in_grid_order() -> None:
    layout = Layout(Grid(2, 2, 2))
    offsets = torch.tensor([0, 4, 8])
    keep = torch.tensor([[[1, 0], [0, 1]], [[1, 1], [0, 1]]], dtype=torch.bool)[None]
    order = torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])
    plan = Plan(layout, 1, 2, BlockPattern(offsets, offsets, keep), order, order)
    figure = draw_plan(plan, "mine", head=1)
    drawn = np.asarray(figure.subfigs[0].axes[0].images[0].get_array())
    np.testing.assert_array_equal(drawn, np.kron([[1, 0], [1, 1]], np.ones((4, 4))))
    assert figure.get_suptitle() == "mine – density 0.75"
    with pytest.raises(BadInput, match="head 2"):
        draw_plan(plan, "mine", head=2)


def test_the_plain_shades_can_be_printed_anywhere() -> None:
    assert "".join([ASCII_SHADES, *ASCII_CELLS.values()]).isascii()
    assert len(ASCII_SHADES) == len(SHADES)
