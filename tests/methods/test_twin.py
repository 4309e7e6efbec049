"""A twin stands for a large case in verification, so it must be ragged where the large case is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import Call, get_method
from attnbench.methods.base import shrink_axis
from attnbench.methods.registry import BUILT_IN
from attnbench.methods.vmoba import cuboid

SIDES = st.tuples(st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
BLOCKS = st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
TEXTS = st.tuples(st.integers(0, 300), st.integers(0, 300))
MOST_TOKENS = 2000


def kind(length: int, block: int) -> tuple[bool, bool]:
    """Whether an axis has several blocks, and whether its last block is short."""
    block = min(length, block)
    return length > block, length % block > 0


def make_twin(name: str, layout: Layout, layer: int = 0, **given_settings: object) -> tuple[Any, Layout]:
    """The twin's settings and layout; checks what holds for every twin."""
    method = get_method(name)
    assert method.twin is not None
    settings, small = method.twin(method.resolve(method.settings(**given_settings), layout), layout, layer)
    assert isinstance(settings, method.settings)
    assert small.grid.tokens <= min(MOST_TOKENS, layout.grid.tokens) or name == "full"
    assert [n > 0 for n in small.text] == [n > 0 for n in layout.text]
    assert all(a <= b for a, b in zip(small.text, layout.text, strict=True))
    settings = method.resolve(settings, small)
    if small.grid.tokens <= 600:
        q, k = torch.randn(2, 1, 1, small.tokens, 4, generator=torch.Generator().manual_seed(0))
        method.plan(settings, q, k, Call(small, layer)).check()
    return settings, small


def test_every_method_has_a_twin() -> None:
    assert all(get_method(name).twin is not None for name in BUILT_IN)


@given(length=st.integers(1, 500), block=st.integers(1, 500), most=st.tuples(st.integers(2, 9), st.integers(2, 40)))
def test_a_shrunk_axis_is_ragged_in_the_same_way(length: int, block: int, most: tuple[int, int]) -> None:
    small, small_block = shrink_axis(length, block, most_blocks=most[0], most_block=most[1])
    assert kind(small, small_block) == kind(length, block)
    assert 1 <= small_block <= min(block, length, most[1])
    assert small <= length
    assert -(-small // small_block) == min(most[0], -(-length // block))


@given(sides=SIDES, tile=BLOCKS, text=TEXTS, window=st.tuples(*[st.sampled_from([1, 3, 5, 7, 91, 92])] * 3))
def test_sta(
    sides: tuple[int, int, int], tile: tuple[int, int, int], text: tuple[int, int], window: tuple[int, int, int]
) -> None:
    settings, small = make_twin("sta", Layout(Grid(*sides), text), tile=tile, window=window)
    for axis in range(3):
        (side, size), (small_side, small_size) = (
            (sides[axis], tile[axis]),
            (small.grid.shape[axis], settings.tile[axis]),
        )
        assert kind(small_side, small_size) == kind(side, size)
        kept_whole = window[axis] >= -(-side // size)
        assert (settings.window[axis] >= -(-small_side // small_size)) == kept_whole


@pytest.mark.parametrize("tiles", [2, 3, 4])
def test_sta_with_an_even_window(tiles: int) -> None:
    settings, small = make_twin("sta", Layout(Grid(6 * tiles, 8, 8)), window=(tiles, 1, 1))
    assert settings.window[0] >= -(-small.grid.t // settings.tile[0])


@given(sides=SIDES, text=TEXTS, partition=st.tuples(st.integers(1, 9), st.tuples(*[st.integers(1, 20)] * 2), BLOCKS))
def test_vmoba(sides: tuple[int, int, int], text: tuple[int, int], partition: Any) -> None:
    grid = Grid(*sides)
    for layer in range(3):
        settings, small = make_twin("vmoba", Layout(grid, text), layer, partition=partition)
        block, small_block = cuboid(partition, grid, layer), cuboid(settings.partition, small.grid, layer)
        for side, size, small_side, small_size in zip(sides, block, small.grid.shape, small_block, strict=True):
            assert kind(small_side, small_size) == kind(side, size)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_vmoba_keeps_its_other_settings_and_about_its_share_of_blocks(layer: int) -> None:
    layout = Layout(Grid(21, 45, 80))
    settings, _ = make_twin("vmoba", layout, layer, scope="query", threshold=0.6)
    assert (settings.select, settings.scope, settings.threshold) == ("threshold", "query", 0.6)
    settings, small = make_twin("vmoba", layout, layer, select="topk")
    blocks = 1
    for side, size in zip(small.grid.shape, cuboid(settings.partition, small.grid, layer), strict=True):
        blocks *= -(-side // size)
    share = (2 / 7, 10 / 40, 9 / 36)[layer]
    assert settings.topk == max(1, round(share * blocks))


@given(sides=SIDES, text=TEXTS, size=st.integers(1, 5000), topk=st.integers(1, 30), causal=st.booleans())
def test_moba(sides: tuple[int, int, int], text: tuple[int, int], size: int, topk: int, causal: bool) -> None:
    layout = Layout(Grid(*sides), text)
    settings, small = make_twin("moba", layout, block_size=size, topk=topk, causal=causal)
    assert kind(small.grid.tokens, settings.block_size) == kind(layout.grid.tokens, size)
    assert settings.causal == causal
    whole = topk >= -(-layout.grid.tokens // size)
    assert not whole or settings.topk >= -(-small.grid.tokens // settings.block_size)


@given(sides=SIDES, text=TEXTS, half=st.tuples(*[st.integers(0, 90)] * 3))
def test_sliding_window(sides: tuple[int, int, int], text: tuple[int, int], half: tuple[int, int, int]) -> None:
    settings, small = make_twin("sliding-window", Layout(Grid(*sides), text), window=half)
    for side, most, small_side, small_most in zip(sides, half, small.grid.shape, settings.window, strict=True):
        assert most > 0 or small_most == 0
        assert most < side - 1 or small_most == small_side - 1
        assert 0 <= small_most < small_side


@given(sides=SIDES, share=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_sliding_window_in_raster_order(sides: tuple[int, int, int], share: float) -> None:
    layout = Layout(Grid(*sides))
    width = round(share * layout.grid.tokens)
    settings, small = make_twin("sliding-window", layout, width=width)
    assert settings.window is None
    exact = width / layout.grid.tokens * small.grid.tokens
    assert settings.width == pytest.approx(exact, abs=0.51)


def test_full() -> None:
    for text in ((0, 0), (226, 0), (3, 77)):
        make_twin("full", Layout(Grid(21, 45, 80), text))


def test_a_small_case_is_its_own_twin() -> None:
    layout = Layout(Grid(2, 3, 5), (1, 2))
    method = get_method("sta")
    given_settings = method.resolve(method.settings(tile=(2, 2, 3), window=(1, 1, 1)), layout)
    assert method.twin is not None
    assert method.twin(given_settings, layout, 0) == (replace(given_settings), layout)
