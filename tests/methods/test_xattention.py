"""XAttention restated group by group, in float64, padding included. Random masses do not tie."""

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
from attnbench.methods.xattention import padded

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py


def kept_blocks(q: Tensor, k: Tensor, block: int, stride: int, tau: float, length: int, rule: str) -> list[set[int]]:
    """Key blocks that each query block of one head keeps; q and k are [N, D], padded with zeros to ``length``."""
    n, dim = q.shape
    q, k = (torch.cat([x, x.new_zeros(length - n, dim)]) for x in (q, k))
    groups, real = length // stride, -(-n // stride)
    scores = q.new_zeros(groups, groups)
    for i in range(stride):
        scores += q[stride - 1 - i :: stride] @ k[i::stride].T
    shares = (scores / (dim**0.5 * stride)).softmax(1)
    shares[real:] = 0
    each = block // stride
    kept = []
    for row in range(-(-n // block)):
        masses = [
            float(shares[row * each : (row + 1) * each, column * each : (column + 1) * each].sum())
            for column in range(length // block)
        ]
        ranked = sorted(range(len(masses)), key=lambda column: -masses[column])
        before, chosen = 0.0, set()
        for column in ranked:
            if before < tau * sum(masses):
                chosen.add(column)
            before += masses[column]
        if len(chosen) < len(masses) and rule == "published":
            chosen.add(0)
        kept.append(chosen)
    return kept


@given(
    data=st.data(),
    sizes=st.sampled_from([(1, 1), (4, 2), (6, 3), (8, 4), (8, 8)]),
    tau=st.sampled_from([0.2, 0.6, 0.95]),
    chunk=st.sampled_from([None, 5, 64]),
    dense=st.booleans(),
    rule=st.sampled_from(["published", "paper"]),
    heads=st.sampled_from([(2, 1), (2, 2)]),
)
def test_against_the_rule_group_by_group(
    data: st.DataObject, sizes: tuple[int, int], tau: float, chunk: int | None, dense: bool, rule: str,
    heads: tuple[int, int], layouts: Helper, tensors: Helper, mask_where: Helper,
) -> None:  # fmt: skip
    layout = data.draw(layouts(most=(3, 4, 5)).filter(lambda layout: layout.grid.tokens >= sizes[0]))
    q, k = tensors(layout, *heads, seed=data.draw(st.integers(0, 99)))
    block, stride = sizes
    mask = attnbench.select(
        2 * q, 2 * k, method="xattention", grid=layout.grid, text=layout.text, block=block, stride=stride,
        threshold=tau, chunk=chunk, rule=rule, text_dense=dense,
    ).token_mask()  # fmt: skip
    part = layout.video if dense else slice(None)
    n = layout.grid.tokens if dense else layout.tokens
    length = n if chunk is None else -(-n // chunk) * chunk
    length = -(-length // block) * block
    for h in range(2):
        kept = kept_blocks(2 * q[0, h, part], 2 * k[0, h * heads[1] // 2, part], block, stride, tau, length, rule)

        def keeps(query: int, key: int, kept: list[set[int]] = kept) -> bool:
            return key // block in kept[query // block]

        if dense:
            assert torch.equal(mask[0, h], mask_where(layout, keeps))
        else:
            every = range(layout.tokens)
            assert mask[0, h].tolist() == [[keeps(query, key) for key in every] for query in every]


@pytest.mark.parametrize(
    ("tokens", "chunk"), [(32_760, 8192), (55_296, 4096), (75_600, 2048), (118_800, 2048), (9, 2048)]
)
def test_the_published_padding(tokens: int, chunk: int) -> None:
    settings = get_method("xattention").settings()
    assert padded(settings, tokens) == -(-tokens // chunk) * chunk
    assert padded(get_method("xattention").settings(chunk=None), tokens) == -(-tokens // 128) * 128


def test_a_row_that_drops_anything_keeps_block_0() -> None:
    q = torch.ones(1, 1, 8, 1)
    k = torch.tensor([0.0, 0, 0, 0, 9, 9, 0, 0])[None, None, :, None]
    where = {"method": "xattention", "grid": (1, 1, 8), "block": 2, "stride": 2, "threshold": 0.5, "chunk": None}
    assert attnbench.select(q, k, **where).pattern.keep[0, 0].int().tolist() == [[1, 0, 1, 0]] * 4
    assert attnbench.select(q, k, **where, rule="paper").pattern.keep[0, 0].int().tolist() == [[0, 0, 1, 0]] * 4


def test_the_estimate_states_its_operations() -> None:
    x = torch.zeros(1, 2, 600, 16)
    plan = attnbench.select(x, x, method="xattention", grid=Grid(1, 1, 597), text=(1, 2))
    assert plan.layout == Layout(Grid(1, 1, 597), (1, 2))
    assert plan.selection_flops == 2 * 2 * 75 * 75 * 8 * 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": 32}, "block is 32; it must fit into the 24 tokens"),
        ({"block": 12, "stride": 8}, "stride is 8; it must divide the block, 12 tokens"),
        ({"stride": 0}, "stride is 0"),
        ({"threshold": 0}, "threshold is 0; it must be a number above 0 and at most 1"),
        ({"chunk": "none"}, "chunk is 'none'; it must be published, a whole number, or None"),
        ({"chunk": 0}, "chunk is 0"),
        ({"rule": None}, "rule is None"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    x = torch.zeros(1, 1, 24, 4)
    with pytest.raises(BadInput, match=message):
        attnbench.select(x, x, method="xattention", grid=(2, 3, 4), **settings)
