"""MoBA restated query by query. Random scores do not tie; of equal ones the first block is taken."""

from __future__ import annotations

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


def kept_blocks(q: Tensor, k: Tensor, size: int, topk: int, causal: bool) -> list[set[int]]:
    """Blocks that each query of one head keeps; q and k are the video tokens [T·H·W, D]."""
    n = len(q)
    means = [
        sum(k[i] for i in range(start, min(start + size, n))) / min(size, n - start) for start in range(0, n, size)
    ]
    kept = []
    for token in range(n):
        own = token // size
        rivals = [block for block in range(own if causal else len(means)) if block != own]
        rivals.sort(key=lambda block: -float(q[token] @ means[block]))
        kept.append({own, *rivals[: topk - 1]})
    return kept


@given(
    data=st.data(),
    size=st.integers(1, 30),
    topk=st.integers(1, 9),
    causal=st.booleans(),
    heads=st.sampled_from([(2, 1), (2, 2)]),
)
def test_against_the_rule_query_by_query(
    data: st.DataObject,
    size: int,
    topk: int,
    causal: bool,
    heads: tuple[int, int],
    layouts: Helper,
    tensors: Helper,
    mask_where: Helper,
) -> None:
    layout = data.draw(layouts(most=(3, 4, 5)))
    q, k = tensors(layout, *heads, batch=2, seed=data.draw(st.integers(0, 99)))
    plan = attnbench.select(
        q, k, method="moba", grid=layout.grid, text=layout.text, block_size=size, topk=topk, causal=causal
    )
    mask, size = plan.token_mask(), min(size, layout.grid.tokens)
    for b in range(2):
        for h in range(2):
            kv = h * heads[1] // heads[0]
            kept = kept_blocks(q[b, h, layout.video], k[b, kv, layout.video], size, topk, causal)

            def keeps(query: int, key: int, kept: list[set[int]] = kept) -> bool:
                return key // size in kept[query] and (key <= query or not causal)

            assert torch.equal(mask[b, h], mask_where(layout, keeps))


def test_the_short_last_block_is_chosen_like_any_other() -> None:
    """10 tokens in blocks of 4: the last holds 2. Its keys are what every query likes best."""
    q, k = torch.ones(1, 1, 10, 1), torch.tensor([0.0] * 8 + [1.0] * 2)[None, None, :, None]
    mask = attnbench.select(q, k, method="moba", grid=(1, 1, 10), block_size=4, topk=2).token_mask()[0, 0]
    assert bool(mask[:, 8:].all())
    assert mask[:8].sum(1).tolist() == [6] * 8
    assert mask[8:, :4].all()  # of the two others, equal, the first


@pytest.mark.parametrize(
    ("tokens", "given_settings", "size", "topk"),
    [
        (600, {}, 10, 15),
        (601, {}, 11, 15),
        (7, {}, 1, 7),
        (100, {"blocks": 7}, 15, 7),
        (100, {"blocks": 1000}, 1, 15),
        (100, {"block_size": 33}, 33, 4),
        (100, {"block_size": 1000, "topk": 3}, 100, 1),
    ],
)
def test_defaults_fit_the_grid(tokens: int, given_settings: dict[str, int], size: int, topk: int) -> None:
    method = get_method("moba")
    resolved = method.resolve(method.settings(**given_settings), Layout(Grid(1, 1, tokens), (3, 3)))
    assert (resolved.block_size, resolved.topk) == (size, topk)
    assert method.resolve(resolved, Layout(Grid(1, 1, tokens))) == resolved


def test_blocks_and_block_size_exclude_each_other() -> None:
    with pytest.raises(BadInput, match="blocks is 4 and block_size is 8; give one of them"):
        get_method("moba").settings(blocks=4, block_size=8)
