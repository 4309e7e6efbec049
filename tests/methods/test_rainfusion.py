"""RainFusion restated token by token in float64: the class of each head, its order, and its band."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attnbench
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods.rainfusion import reach_of_heads

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py


def mass(q: Tensor, k: Tensor, tokens: list[int], bandwidth: float) -> float:
    weights = (q[tokens] @ k[tokens].T / q.shape[1] ** 0.5).softmax(-1)
    reach, n = int(len(tokens) * bandwidth), len(tokens)
    return sum(float(weights[i, max(0, i - reach) : i + reach + 1].sum()) for i in range(n)) / n


@settings(max_examples=12, deadline=None)
@given(
    sides=st.sampled_from([(3, 12, 13), (2, 16, 16), (4, 9, 16), (1, 4, 5), (3, 5, 6)]),
    text=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    bandwidth=st.sampled_from([0.3, 0.85, 1.0]),
    local_share=st.sampled_from([0.5, 0.95]),
    seed=st.integers(0, 99),
)
def test_against_the_rule(
    sides: tuple[int, int, int], text: tuple[int, int], bandwidth: float, local_share: float, seed: int,
    tensors: Helper, places: Helper,
) -> None:  # fmt: skip
    layout = Layout(Grid(*sides), text)
    frame, frames, before = sides[1] * sides[2], sides[0] - 1, text[0]
    q, k = tensors(layout, 2, 1, seed=seed)
    mask = attnbench.select(
        q, k, method="rainfusion", grid=layout.grid, text=text, bandwidth=bandwidth, local_share=local_share
    ).token_mask()
    banded = list(range(before + frame, before + layout.grid.tokens))
    where = dict(zip(range(before, before + layout.grid.tokens), places(layout.grid), strict=True))
    for h in range(2):
        expected = torch.ones(layout.tokens, layout.tokens, dtype=torch.bool)
        if frames:
            near = mass(q[0, h], k[0, 0], banded[:frame], bandwidth)
            far = mass(q[0, h], k[0, 0], banded[::frames], bandwidth)
            local = near > local_share or near > far
            order = sorted(banded, key=lambda token: (*where[token][1:], where[token][0])) if local else banded
            blocks = int(frame * bandwidth // 128) * frames if local else int(frame * frames * bandwidth // 128)
            position = torch.arange(len(order))
            band = (position[:, None] - position).abs() <= 128 * blocks
            expected[torch.tensor(order)[:, None], torch.tensor(order)] = band
        assert torch.equal(mask[0, h], expected)


def test_the_published_band_of_wan() -> None:
    """A bandwidth of 0.2 at 480p and 720p: frames of 1,560 and 3,600 tokens, 20 of them after the first."""
    assert reach_of_heads(0.2, 1560, 20) == (2 * 20 * 128, 48 * 128)
    assert reach_of_heads(0.2, 3600, 20) == (5 * 20 * 128, 112 * 128)


@pytest.mark.parametrize(
    ("given_settings", "message"),
    [
        ({"bandwidth": 0}, "bandwidth is 0; it must be a number above 0 and at most 1"),
        ({"bandwidth": 1.1}, "bandwidth is 1.1"),
        ({"local_share": 2}, "local_share is 2; it must be a number of at least 0 and at most 1"),
    ],
)
def test_bad_settings(given_settings: dict[str, Any], message: str) -> None:
    x = torch.zeros(1, 1, 24, 4)
    with pytest.raises(BadInput, match=message):
        attnbench.select(x, x, method="rainfusion", grid=(2, 3, 4), **given_settings)
