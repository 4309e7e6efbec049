from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.kernels.grid import Grid, Layout, coordinates

SIDES = st.integers(1, 9)


@given(t=SIDES, h=SIDES, w=SIDES)
def test_every_way_to_write_a_grid_gives_the_same_grid(t: int, h: int, w: int) -> None:
    grid = Grid(t, h, w)
    for written in (grid, f"{t}x{h}x{w}", f" {t} x {h} × {w} ", (t, h, w), [t, h, w], str(grid)):
        assert Grid.of(written) == grid
    assert grid.shape == (t, h, w)
    assert grid.tokens == len(list(range(t * h * w)))


@pytest.mark.parametrize(
    "value",
    ["21x45", "21x45x80x1", "0x4x4", "-1x4x4", "axbxc", "", "1.5x2x3", (1, 2), (1, 2, 3, 4), (0, 1, 1), (1, -2, 3),
     (1, 2, True), (1, 2, 3.0), (1, "2", 3), None, 7, {1, 2, 3}],
)  # fmt: skip
def test_what_is_no_grid_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(BadInput, match=r"^grid .* must be three positive whole numbers, as 21x45x80") as caught:
        Grid.of(value)
    assert repr(value) in str(caught.value)


@given(sides=st.tuples(SIDES, SIDES, SIDES))
def test_tokens_are_numbered_frame_by_frame_and_row_by_row(sides: tuple[int, int, int]) -> None:
    t, h, w = sides
    by_hand = [[i, j, k] for i in range(t) for j in range(h) for k in range(w)]
    assert coordinates(Grid(*sides), torch.device("cpu")).tolist() == by_hand


def test_a_layout_puts_text_before_and_after_the_video() -> None:
    layout = Layout(Grid(2, 3, 4), (5, 7))
    tokens = ["before"] * 5 + ["video"] * 24 + ["after"] * 7
    assert layout.tokens == len(tokens)
    assert set(tokens[layout.video]) == {"video"}
    assert len(tokens[layout.video]) == 24
    assert Layout(Grid(2, 3, 4)).tokens == 24


@pytest.mark.parametrize("text", [(1,), (1, 2, 3), (-1, 0), (0, 1.0), (True, 0), ("1", "2")])
def test_text_must_be_two_whole_numbers(text: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="must be two whole numbers: text tokens before and after") as caught:
        Layout(Grid(1, 1, 1), text)
    assert repr(text) in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    assert str(unknown_name("fruit", "aple", ["pear", "apple"])) == (
        "unknown fruit 'aple': did you mean 'apple'? known: apple, pear"
    )
    assert "did you mean 'res'?" in str(unknown_name("key", "resolution", ["direction", "res", "rounds"]))
    assert str(unknown_name("fruit", "zzz", ["pear", "apple"])) == "unknown fruit 'zzz': known: apple, pear"
