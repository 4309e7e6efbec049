"""RainFusion 2.0 restated token by token: the order of tiles, and rows of blocks that rank all others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py


def arranged(grid: Grid, flavour: str, places: Helper) -> list[int]:
    """The video tokens in the arranged order."""
    rows, columns = grid.h // 8 * 8, grid.w // 8 * 8
    where = list(enumerate(places(grid)))

    def part(h: int, w: int) -> tuple[int, int, int]:
        return (0, h // 8, w // 8) if h < rows and w < columns else (1, 0, 0) if h >= rows else (2, 0, 0)

    if flavour == "mindie":
        ragged = rows < grid.h or columns < grid.w

        def key(token: tuple[int, tuple[int, int, int]]) -> tuple[Any, ...]:
            _, (t, h, w) = token
            return (t, (0, 0, 0) if ragged and t == 0 else part(h, w))
    else:

        def key(token: tuple[int, tuple[int, int, int]]) -> tuple[Any, ...]:
            _, (t, h, w) = token
            kind, *tile = part(h, w)
            return (t == 0, 0 if t == 0 else kind, (t - 1) // 2 if kind == 0 and t else 0, tile if t else [])

    return [number for number, _ in sorted(where, key=key)]


def kept_blocks(q: Tensor, k: Tensor, blocks: list[list[int]], density: float, dense: set[int]) -> list[set[int]]:
    q_means, k_means = ([sum(x[i] for i in block) / len(block) for block in blocks] for x in (q, k))
    kept = []
    for row, mean in enumerate(q_means):
        scores = [float(mean @ each) for each in k_means]
        least = sorted(scores, reverse=True)[math.ceil(len(blocks) * density) - 1]
        chosen = {j for j, score in enumerate(scores) if score >= least}
        kept.append(set(range(len(blocks))) if row in dense else chosen | dense)
    return kept


@pytest.mark.parametrize("flavour", ["mindie", "lightx2v"])
@given(
    data=st.data(),
    sides=st.tuples(st.integers(1, 4), st.sampled_from([3, 8, 10]), st.sampled_from([8, 9])),
    text=st.tuples(st.integers(0, 3), st.integers(0, 9)),
    block=st.sampled_from([5, 16, 24]),
    density=st.sampled_from([0.1, 0.25, 0.6]),
    protect=st.booleans(),
)
def test_against_the_rule(
    flavour: str, data: st.DataObject, sides: tuple[int, int, int], text: tuple[int, int], block: int, density: float,
    protect: bool, tensors: Helper, places: Helper,
) -> None:  # fmt: skip
    layout = Layout(Grid(*sides), text)
    n, frame, before = layout.grid.tokens, sides[1] * sides[2], text[0]
    q, k = tensors(layout, 2, 1, seed=data.draw(st.integers(0, 99)))
    mask = attnbench.select(
        q, k, method="rainfusion2", grid=layout.grid, text=text, block=block, density=density,
        protect_first_frame=protect, flavour=flavour,
    ).token_mask()  # fmt: skip
    video = [token + before for token in arranged(layout.grid, flavour, places)]
    words = [*range(before), *range(before + n, layout.tokens)]
    blocks = [part[i : i + block] for part in (video, words) for i in range(0, len(part), block)]
    first_text = -(-n // block)
    dense = set(range(first_text, len(blocks)))
    if protect:
        dense |= set(range(-(-frame // block)) if flavour == "mindie" else range((n - frame) // block, first_text))
    for h in range(2):
        expected = torch.zeros(layout.tokens, layout.tokens, dtype=torch.bool)
        for row, columns in enumerate(kept_blocks(q[0, h], k[0, 0], blocks, density, dense)):
            for column in columns:
                expected[torch.tensor(blocks[row])[:, None], torch.tensor(blocks[column])] = True
        assert torch.equal(mask[0, h], expected)


def test_equal_shares_are_all_kept() -> None:
    x = torch.zeros(1, 1, 128, 4)
    plan = attnbench.select(x, x, method="rainfusion2", grid=(2, 8, 8), block=16, density=0.2)
    assert plan.density == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": 0}, "density is 0; it must be a number above 0 and at most 1"),
        ({"block": 25}, "block is 25; it must fit into the 24 tokens"),
        ({"protect_first_frame": "yes"}, "protect_first_frame is 'yes'"),
        ({"flavour": "wan"}, "flavour is 'wan'; it must be one of mindie, lightx2v"),
        ({"text_dense": False}, "text_dense is False"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    x = torch.zeros(1, 1, 24, 4)
    with pytest.raises(BadInput, match=message):
        attnbench.select(x, x, method="rainfusion2", grid=(2, 3, 4), **settings)
