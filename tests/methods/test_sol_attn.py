"""Sol-Attn, restated with lists: Morton order, the cut above a row's mean, and summaries in one softmax."""

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
from attnbench.methods import get_method

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py


def morton(t: int, h: int, w: int) -> int:
    """Bits of w, h and t in turn, from the lowest."""
    return sum(((w >> i & 1) << 3 * i) + ((h >> i & 1) << 3 * i + 1) + ((t >> i & 1) << 3 * i + 2) for i in range(8))


def one_head(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, blocks: list[list[int]], tau: float, spread: str, near: int,
    summaries: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The mask and the output of one head, [N, D] in float64."""
    n, scale = len(q), q.shape[1] ** -0.5
    means = [[x[block].mean(0) for block in blocks] for x in (q, k, v)]
    mask = torch.ones(n, n, dtype=torch.bool)
    out = (q @ k.T * scale).softmax(-1) @ v
    for i, mine in enumerate(means[0]):
        row = [float(mine @ key) * scale for key in means[1]]
        average = sum(row) / len(row)
        variance = sum((x - average) ** 2 for x in row) / len(row)
        if spread == "diagonal":
            by_channel = torch.stack(means[1]).var(0, correction=0)
            variance = float((mine**2 * by_channel).sum()) / len(mine)
        limit = average + tau * math.sqrt(variance + 1e-6 * math.log(2) ** 2)
        kept = [x > limit or abs(i - j) <= near for j, x in enumerate(row)]
        for j, keeps in enumerate(kept):
            if not keeps:
                mask[torch.tensor(blocks[i])[:, None], torch.tensor(blocks[j])] = False
        for token in blocks[i]:
            keys, values = k.clone(), v.clone()
            for j, keeps in enumerate(kept):
                if not keeps:
                    keys[blocks[j]], values[blocks[j]] = means[1][j], means[2][j]
            scores = keys @ q[token] * scale
            out[token] = (scores if summaries else scores.masked_fill(~mask[token], -torch.inf)).softmax(0) @ values
    return mask, out


@given(
    data=st.data(), block=st.integers(1, 9), tau=st.sampled_from([-0.3, 0.5, 1.0]), near=st.integers(0, 2),
    spread=st.sampled_from(["diagonal", "exact"]), order=st.sampled_from(["morton", "raster"]), summaries=st.booleans(),
)  # fmt: skip
def test_against_the_rule(
    data: st.DataObject, block: int, tau: float, near: int, spread: str, order: str, summaries: bool, layouts: Helper,
    tensors: Helper, places: Helper,
) -> None:  # fmt: skip
    layout = data.draw(layouts(most=(3, 4, 5), text=3))
    block = min(block, layout.grid.tokens)
    q, k, v = tensors(layout, 2, 1, 1)
    settings: dict[str, Any] = {"block": block, "tau": tau, "near": near, "spread": spread, "order": order}
    where = {"method": "sol-attn", "grid": layout.grid, "text": layout.text, "summaries": summaries, **settings}
    where_tokens = places(layout.grid)
    tokens = list(range(layout.grid.tokens))
    if order == "morton":
        tokens.sort(key=lambda token: morton(*where_tokens[token]))
    cut = [[layout.text[0] + x for x in tokens[at : at + block]] for at in range(0, len(tokens), block)]
    mask, out = attnbench.select(q, k, **where).token_mask()[0], attnbench.attention(q, k, v, **where)
    for h in range(2):
        expected = one_head(q[0, h], k[0, 0], v[0, 0], layout, cut, tau, spread, near, summaries)
        assert torch.equal(mask[h], expected[0])
        torch.testing.assert_close(out[0, h], expected[1], atol=1e-10, rtol=0)


def test_a_tau_for_a_density() -> None:
    setting = get_method("sol-attn").density_setting
    assert setting is not None
    assert not isinstance(setting, str)
    chosen = [setting.choose(None, Layout(Grid(1, 1, 1)), density)["tau"] for density in (0.023, 0.067, 0.159, 0.5)]
    assert chosen == pytest.approx([2.0, 1.5, 1.0, 0.0], abs=0.01)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tau": "high"}, "tau is 'high'; it must be a number"),
        ({"spread": "full"}, "spread is 'full'; it must be one of diagonal, exact"),
        ({"order": "hilbert"}, "order is 'hilbert'; it must be one of morton, raster"),
        ({"near": -1}, "near is -1; it must be a whole number of at least 0"),
        ({"summaries": 1}, "summaries is 1; it must be true or false"),
        ({"block": 9}, "block is 9; it must fit into the 8 tokens of the grid"),
    ],
)
def test_refusals(settings: dict[str, Any], words: str) -> None:
    x = torch.zeros(1, 1, 8, 4)
    with pytest.raises(BadInput, match=words):
        attnbench.select(x, x, method="sol-attn", grid=(2, 2, 2), **settings)


def test_all_blocks_may_be_near(tensors: Helper) -> None:
    layout = Layout(attnbench.Grid(2, 3, 4))
    q, k, _ = tensors(layout, 1, 1, 1)
    settings: dict[str, Any] = {"method": "sol-attn", "grid": layout.grid, "block": 4}
    assert attnbench.select(q, k, near=2**31 - 1, **settings).density == 1
